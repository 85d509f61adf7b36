"""What pkgkmod talks about: projects, targets, kernels, jobs, and what the stages make."""
