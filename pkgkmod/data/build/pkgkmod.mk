# Builds the modules of this source tree for one kernel, wherever make, a compiler and the kernel's
# build tree are; pkgkmod itself is not needed.
#
#   make -f pkgkmod.mk modules KERNEL=$(uname -r)
#   make -f pkgkmod.mk install KERNEL=$(uname -r) DESTDIR=/somewhere
#
# KERNEL       release of the kernel, as `uname -r` prints it
# KERNEL_TREE  its build tree
# KERNEL_CC    its compiler, with path or without; the kernel's own choice if empty
# KERNEL_ROOT  folder below which the kernel's files lie at their paths, where they are not installed
# LLVM         1 (or -19) for a kernel that clang built
# PREBUILT     folder with finished modules in PREBUILT/KERNEL/, used instead of compiling
# MODULE_DIR   where the modules are installed
# STRIP        program that takes the debug information away; kept if empty

include pkgkmod-options.mk

KERNEL      ?= $(shell uname -r)
KERNEL_TREE ?= /lib/modules/$(KERNEL)/build
KERNEL_CC   ?=
PREBUILT    ?=
MODULE_DIR  ?= /lib/modules/$(KERNEL)/updates/$(NAME)
STRIP       ?=

work     := $(CURDIR)/build/$(KERNEL)
finished := modules/$(KERNEL)
objects  := $(addsuffix .ko,$(MODULES))

# Debug information and __FILE__ name a place that does not depend on where this was built: two
# builds in different folders give the same bytes.
flags := -ffile-prefix-map=$(work)=/usr/src/$(NAME)-$(VERSION)

# Where the kernel's files were put together elsewhere than at the paths they were packaged for.
KERNEL_ROOT ?=
flags += $(if $(KERNEL_ROOT),-ffile-prefix-map=$(KERNEL_ROOT)=)

# Patches for some kernels only: each line of the series is STRIP FILE PATTERN...
define apply_patches
@set -f; if test -f pkgkmod-patches/series; then while read -r strip file patterns; do \
		for pattern in $$patterns; do case '$(KERNEL)' in $$pattern) \
			echo "applying $$file"; patch -d '$(work)' -p$$strip -F0 -s < pkgkmod-patches/$$file || \
				{ echo "pkgkmod.mk: error: $${file#????-} does not apply for $(KERNEL)"; exit 1; }; break;; \
		esac; done; done < pkgkmod-patches/series; fi
endef

# Where the tree has a vmlinux, kbuild gives modules type information (BTF).
pahole = $(and $(wildcard $(KERNEL_TREE)/vmlinux),$(shell command -v pahole))

# kbuild reads the options from the kernel's .config; variables on the command line win over it, and
# the header does the same for the compiler (it comes after the kernel's own autoconf.h).
kbuild = $(MAKE) -C $(KERNEL_TREE) M=$(work) \
	$(if $(KERNEL_CC),CC="$(KERNEL_CC)") $(if $(LLVM),LLVM=$(LLVM)) $(if $(pahole),PAHOLE=$(work)/pkgkmod-pahole) \
	KCPPFLAGS="-include $(work)/pkgkmod-kconfig.h $(addprefix -I$(work)/,$(INCLUDE_FOLDERS))" \
	KCFLAGS="$(flags) $(EXTRA_CFLAGS)" KAFLAGS="$(flags)" \
	$(OPTIONS)

.PHONY: modules install clean

modules: $(finished)/.finished

ifneq ($(PREBUILT),)
$(finished)/.finished:
	mkdir -p $(@D)
	cp $(foreach object,$(notdir $(objects)),$(PREBUILT)/$(KERNEL)/$(object)) $(PREBUILT)/$(KERNEL)/Module.symvers $(@D)
	touch $@
else
$(finished)/.finished:
	rm -rf $(work) && mkdir -p $(work) $(@D)
	cp -R Kbuild pkgkmod-options.mk pkgkmod-kconfig.h $(TREES) $(work)
	install -m 0755 pkgkmod-pahole $(work)
	$(apply_patches)
	+$(kbuild) modules
	cp $(addprefix $(work)/,$(objects)) $(@D)
	sed 's|$(work)/||' $(work)/Module.symvers > $(@D)/Module.symvers
	touch $@
endif

install: modules
	mkdir -p $(DESTDIR)$(MODULE_DIR)
	for module in $(notdir $(objects)); do \
		install -m 0644 $(finished)/$$module $(DESTDIR)$(MODULE_DIR)/$$module || exit 1; \
		$(if $(STRIP),$(STRIP) --strip-debug $(DESTDIR)$(MODULE_DIR)/$$module || exit 1;) \
	done

clean:
	rm -rf build modules
