# Builds the modules of this source tree for one kernel, wherever make, a compiler and the kernel's
# build tree are; pkgkmod itself is not needed.
#
#   make -f pkgkmod.mk modules KERNEL=$(uname -r)
#   make -f pkgkmod.mk install KERNEL=$(uname -r) DESTDIR=/somewhere
#   make -f pkgkmod.mk finish KERNEL=$(uname -r) DESTDIR=/somewhere STRIP=strip COMPRESS=xz
#
# modules           compiles
# install           puts the modules below DESTDIR as they are, executable: tools that take debug
#                   information out of packages look at executable files only
# finish            strips, signs and compresses what was installed, in this order; a module is
#                   replaced when all of it succeeded
# install-sources   puts the sources where debug information names them
# install-devel     puts Module.symvers and headers into DEVEL_DIR, for drivers that build on this one
# install-firmware  puts the firmware into FIRMWARE_DIR
# greylist          prints the symbols that the modules use and none of the files STABLELIST promises;
#                   after `modules`, since what that says would be printed, too
#
# KERNEL       release of the kernel, as `uname -r` prints it
# KERNEL_TREE  its build tree
# KERNEL_CC    its compiler, with path or without; the kernel's own choice if empty
# KERNEL_ROOT  folder below which the kernel's files lie at their paths, where they are not installed
# PROVIDER_ROOT  folder below which the devel packages of drivers that this one builds on lie at their paths, where
#              they are not installed
# LLVM         1 (or -19) for a kernel that clang built
# PREBUILT     folder with finished modules in PREBUILT/KERNEL/, used instead of compiling
# MODULE_DIR   where the modules are installed
# STRIP        program that takes the debug information away; kept if empty
# SIGN_KEY     private key that modules are signed with: a PEM file or a pkcs11: URI. Best given in
#              the environment, since a build's log shows command lines; its PIN is KBUILD_SIGN_PIN
# SIGN_CERT    its certificate
# SIGN_FILE    the kernel's sign-file; the build tree's if unset
# SIGN_HASH    the kernel's CONFIG_MODULE_SIG_HASH; read from the build tree if unset
# COMPRESS     none, gz, xz or zst
# STABLELIST   files with the symbols that the distribution keeps, one a line

include pkgkmod-options.mk

KERNEL      ?= $(shell uname -r)
KERNEL_TREE ?= /lib/modules/$(KERNEL)/build
KERNEL_CC   ?=
PREBUILT    ?=
MODULE_DIR  ?= /lib/modules/$(KERNEL)/updates/$(NAME)
STRIP       ?=
COMPRESS    ?= none
SIGN_KEY    ?=
SIGN_CERT   ?=
SIGN_FILE   ?= $(KERNEL_TREE)/scripts/sign-file
# Values there are in quotes before Linux 5.16 or so.
SIGN_HASH   ?= $(if $(SIGN_KEY),$(shell sed -n 's/^CONFIG_MODULE_SIG_HASH=//p' \
	'$(KERNEL_TREE)/include/config/auto.conf' | tr -d '"'))
STABLELIST  ?=
SOURCE_DIR   = /usr/src/kmods/$(NAME)-$(VERSION)

# By way of the environment, no character of these means anything to a shell.
export DESTDIR MODULE_DIR STRIP COMPRESS SIGN_KEY SIGN_CERT SIGN_FILE SIGN_HASH SOURCE_DIR DEVEL_DIR FIRMWARE_DIR

work     := $(CURDIR)/build/$(KERNEL)
finished := modules/$(KERNEL)
objects  := $(addsuffix .ko,$(MODULES) $(KERNEL_MODULES))
sources  := $(CURDIR)/build/sources-$(KERNEL)

# Debug information and __FILE__ name a place that does not depend on where this was built: two
# builds in different folders give the same bytes.
flags := -ffile-prefix-map=$(work)=$(SOURCE_DIR)

# Where the kernel's files were put together elsewhere than at the paths they were packaged for.
KERNEL_ROOT ?=
flags += $(if $(KERNEL_ROOT),-ffile-prefix-map=$(KERNEL_ROOT)=)

# What the modules build on: PROVIDER_SYMBOLS are the Module.symvers of other drivers, PROVIDER_INCLUDES hold
# FOLDER:PATH, where the sources in FOLDER find headers before they find the kernel's. Absolute paths are those of
# devel packages.
PROVIDER_ROOT ?= $(if $(wildcard pkgkmod-providers),$(CURDIR)/pkgkmod-providers)
flags += $(if $(PROVIDER_ROOT),-ffile-prefix-map=$(PROVIDER_ROOT)=)
symbols = $(addprefix $(PROVIDER_ROOT),$(PROVIDER_SYMBOLS))
# $(1) is FOLDER and PATH.
include_of = $(firstword $(1)):-I$(if $(filter /%,$(1)),$(PROVIDER_ROOT),$(work)/)$(lastword $(1))
ifneq ($(PROVIDER_INCLUDES),)
export PKGKMOD_INCLUDES := $(foreach pair,$(PROVIDER_INCLUDES),$(call include_of,$(subst :, ,$(pair))))
endif
# A driver's own make starts kbuild in its own way, where these come behind the kernel's own headers only.
behind = $(if $(OWN_MAKE),$(foreach pair,$(PKGKMOD_INCLUDES),$(lastword $(subst :, ,$(pair)))))

# Puts the sources into a folder, with the patches that are for some kernels only: each line of the
# series is STRIP FILE PATTERN...
unpack = rm -rf $(1) && mkdir -p $(1) && cp -R $(TREES) $(1)
define apply_patches
@set -f; if test -f pkgkmod-patches/series; then while read -r strip file patterns; do \
		for pattern in $$patterns; do case '$(KERNEL)' in $$pattern) \
			echo "applying $$file"; patch -d '$(1)' -p$$strip -F0 -s < pkgkmod-patches/$$file || \
				{ echo "pkgkmod.mk: error: $${file#????-} does not apply for $(KERNEL)"; exit 1; }; break;; \
		esac; done; done < pkgkmod-patches/series; fi
endef

# Where the tree has a vmlinux, kbuild gives modules type information (BTF).
pahole = $(and $(wildcard $(KERNEL_TREE)/vmlinux),$(shell command -v pahole))

# For profiles that only a kernel with CONFIG_GCOV_KERNEL takes, kbuild asks the compiler for 0.1 s, whatever the kernel.
kernel_options = $(file < $(KERNEL_TREE)/include/config/auto.conf)
unasked = $(if $(kernel_options),$(if $(findstring CONFIG_GCOV_KERNEL=y,$(kernel_options)),,CFLAGS_GCOV=))

# kbuild reads the options from the kernel's .config; variables on the command line win over it, and
# the header does the same for the compiler (it comes after the kernel's own autoconf.h).
settings = \
	$(if $(KERNEL_CC),CC="$(KERNEL_CC)") $(if $(LLVM),LLVM=$(LLVM)) $(if $(pahole),PAHOLE=$(work)/pkgkmod-pahole) \
	KCPPFLAGS="-include $(work)/pkgkmod-kconfig.h $(addprefix -I$(work)/,$(INCLUDE_FOLDERS)) $(answers_flag) $(behind)" \
	KCFLAGS="$(flags) $(EXTRA_CFLAGS)" KAFLAGS="$(flags)" \
	$(if $(symbols),KBUILD_EXTRA_SYMBOLS="$(symbols)") \
	$(unasked) $(OPTIONS)
kbuild = $(MAKE) -C $(KERNEL_TREE) M=$(work) $(settings) modules
symvers = sed 's|$(work)/||' $(work)/Module.symvers

# A driver with a make of its own: a shell runs the commands in pkgkmod-make. Makes that these start get the settings
# as if they were on each one's command line, and nothing else from here.
ifneq ($(OWN_MAKE),)
export KERNEL KERNEL_TREE
kbuild = $(MAKE) -f pkgkmod.mk own-make $(settings)
symvers = find $(work) -name Module.symvers -exec cat {} + | sed 's|$(work)/||' | LC_ALL=C sort -u
ifneq ($(MAKECMDGOALS),own-make)
MAKEOVERRIDES :=
endif
endif
own-make:
	+@cd '$(work)/$(OWN_MAKE)' && env -u DESTDIR -u MODULE_DIR -u STRIP -u COMPRESS -u SIGN_KEY -u SIGN_CERT \
		-u SIGN_FILE -u SIGN_HASH -u SOURCE_DIR -u DEVEL_DIR -u FIRMWARE_DIR \
		SOURCES='$(work)/$(OWN_MAKE)' sh -e '$(CURDIR)/pkgkmod-make'

.PHONY: modules own-make install finish install-sources install-devel install-firmware greylist clean

modules: $(finished)/.finished

# Where the project has questions to kernels, the answers are given to its sources.
answers :=
answers_flag :=
-include pkgkmod-probes.mk

ifneq ($(PREBUILT),)
$(finished)/.finished:
	mkdir -p $(@D)
	cp $(foreach object,$(notdir $(objects)),$(PREBUILT)/$(KERNEL)/$(object)) $(PREBUILT)/$(KERNEL)/Module.symvers $(@D)
	touch $@
else
$(finished)/.finished: $(answers)
	mkdir -p $(@D)
	@for file in $(symbols); do test -r "$$file" || { \
		echo "pkgkmod.mk: error: there is no $$file: the devel package that has it is needed"; exit 1; }; done
	$(call unpack,$(work))
	cp Kbuild pkgkmod-options.mk pkgkmod-kconfig.h $(work)
	install -m 0755 pkgkmod-pahole $(work)
	$(if $(answers),install -D -m 0644 $(answers) $(work)/pkgkmod-include/compat/config.h)
	$(call apply_patches,$(work))
	+$(kbuild)
	cp $(addprefix $(work)/,$(objects)) $(@D)
	$(symvers) > $(@D)/Module.symvers
	touch $@
endif

install: modules
	install -d -m 0755 "$$DESTDIR$$MODULE_DIR"
	install -m 0755 $(addprefix $(finished)/,$(notdir $(objects))) "$$DESTDIR$$MODULE_DIR"

# A key may be in a log only by its name, so nothing here is echoed.
finish:
	@sh pkgkmod-finish "$$DESTDIR$$MODULE_DIR"

$(sources)/.unpacked:
	$(call unpack,$(sources))
	$(call apply_patches,$(sources))
	touch $@

install-sources: $(sources)/.unpacked
	install -d -m 0755 "$$DESTDIR$$SOURCE_DIR"
	cd $(sources) && find . -type f -name '*.[chS]' -exec sh -ec 'for file; do \
		install -D -m 0644 "$$file" "$$DESTDIR$$SOURCE_DIR/$$file"; done' sh {} +

# Each line of pkgkmod-headers is a header, a tab, and its place below include/.
install-devel: modules $(sources)/.unpacked
	install -D -m 0644 $(finished)/Module.symvers "$$DESTDIR$$DEVEL_DIR/$(KERNEL)/Module.symvers"
	tab=$$(printf '\t'); test ! -e pkgkmod-headers || while IFS=$$tab read -r header place; do \
		install -D -m 0644 "$(sources)/$$header" "$$DESTDIR$$DEVEL_DIR/include/$$place" || exit 1; \
	done < pkgkmod-headers

install-firmware:
	install -d -m 0755 "$$DESTDIR$$FIRMWARE_DIR"
	cd firmware && find . -type f -exec sh -ec 'for file; do \
		install -D -m 0644 "$$file" "$$DESTDIR$$FIRMWARE_DIR/$$file"; done' sh {} +

greylist: modules
	@$(if $(STABLELIST),printf '%s\n' $(addprefix $(finished)/,$(notdir $(objects))) | \
		python3 pkgkmod-deps greylist $(foreach list,$(STABLELIST),--stable '$(list)'),:)

clean:
	rm -rf build modules
