# make reads this before the kernel's own makefiles (MAKEFILES). kbuild asks the compiler some 35 times for each kernel
# whether it knows an option, by compiling nothing (try-run, scripts/Makefile.compiler; in older kernels
# scripts/Kbuild.include), and each question costs as much as a small file. What was answered for another kernel is in
# $(PKGKMOD_ANSWERS).mk: with the same options, the same compiler answers the same. New answers go to
# $(PKGKMOD_ANSWERS).new; all else is asked as kbuild does it.

pkgkmod-nothing :=
# $(1) in letters that a variable's name may have; the path of the kernel's own folder does not matter.
pkgkmod-question = answer/$(subst $(pkgkmod-nothing) $(pkgkmod-nothing),|,$(subst =,~,$(subst :,;,$(subst $$,%,$(patsubst -fmacro-prefix-map=%,-fmacro-prefix-map=,$(1))))))
# Not kept is what could be mistaken for another question, or means something to a shell or make.
pkgkmod-odd = $(strip $(foreach one,| ~ ; % ' \ ` ( ) & < >,$(findstring $(one),$(1))) $(findstring \#,$(1)))
pkgkmod-kept = $(if $(findstring -c -x c /dev/null -o "$$TMP",$(1)),$(if $(call pkgkmod-odd,$(1)),,$(call pkgkmod-question,$(1))))

# $(1) is a command, $(2) what to say if it succeeds, $(3) if it does not; $(4) the question's name, if it is kept.
pkgkmod-ask = $(shell set -e; \
	TMPOUT=$(PKGKMOD_ANSWERS).$$$$; TMP=$$TMPOUT/tmp; TMPO=$$TMP.o; \
	trap "rm -rf $$TMPOUT" EXIT; mkdir -p $$TMPOUT; \
	if ($(1)) >/dev/null 2>&1; \
	then $(call pkgkmod-keep,$(4),known) echo "$(2)"; \
	else $(call pkgkmod-keep,$(4),unknown) echo "$(3)"; \
	fi)
pkgkmod-keep = $(if $(1),{ echo '$(1) := $(2)' >> $(PKGKMOD_ANSWERS).new; } 2>/dev/null || :;)
pkgkmod-answer = $(if $(4),$(if $($(4)),$(if $(filter known,$($(4))),$(2),$(3)),$(pkgkmod-ask)),$(pkgkmod-ask))
override try-run = $(call pkgkmod-answer,$(1),$(2),$(3),$(call pkgkmod-kept,$(1)))

-include $(PKGKMOD_ANSWERS).mk
