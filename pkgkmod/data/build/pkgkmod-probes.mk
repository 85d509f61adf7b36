# Asks the kernel the questions in pkgkmod-probes/, and writes the answers to build/probes-KERNEL/config.h, where
# sources find them as <compat/config.h>. pkgkmod.mk includes this file where there are questions.
#
#   make -f pkgkmod.mk probes KERNEL=$(uname -r)

probes := $(CURDIR)/build/probes-$(KERNEL)
answers := $(probes)/config.h
answers_flag = -I$(work)/pkgkmod-include

.PHONY: probes
probes: $(answers)

# All in one call: starting kbuild takes as long as several compilations. With nothing to compile, only files are read.
$(answers):
	rm -rf $(probes)
	mkdir -p $(probes)
	cp -R pkgkmod-probes $(probes)/asked
ifneq ($(wildcard pkgkmod-probes/*.c),)
	+$(MAKE) -C $(KERNEL_TREE) M=$(probes)/asked $(if $(KERNEL_CC),CC="$(KERNEL_CC)") $(if $(LLVM),LLVM=$(LLVM)) modules
endif
	@KERNEL='$(KERNEL)' KERNEL_TREE='$(KERNEL_TREE)' awk -f pkgkmod-probes/answers.awk $(probes)/asked > $@.new
	mv $@.new $@
