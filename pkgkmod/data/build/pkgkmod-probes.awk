# Writes config.h from the questions in FOLDER/list, what the compiler said to FOLDER/NUMBER.c, Module.symvers and
# .config of KERNEL_TREE. A line of the list is a macro's name and
#   compile NUMBER        1 if it compiles
#   first NUMBER...       which of them compiles first, counted from 1
#   symbol NAME any       1 if it is exported to modules; `free`: also to others than GPL modules
#   config NAME           1 if CONFIG_NAME is set

function fail(text) {
    print "pkgkmod.mk: error: " text > "/dev/stderr"
    exit 1
}

function show(file,    line) {
    while ((getline line < file) > 0) print line > "/dev/stderr"
    close(file)
}

# An error in the source is an answer. That the compiler was killed, or the disk is full, is none.
function is_about_source(line) {
    if (line ~ /: fatal error: /) return line ~ /: No such file or directory$|file not found$/
    return line ~ /^[^ :][^:]*:[0-9]+:([0-9]+:)? error: / || line ~ /^[^ :][^:]*:[0-9]+: Error: /
}

function compiles(number,    file, line, said, found) {
    file = folder "/" number ".answer"
    if ((getline said < file) <= 0) fail("the compiler did not answer question " number " to " kernel)
    close(file)
    if (said == "yes") return 1
    file = folder "/" number ".err"
    while (!found && (getline line < file) > 0) found = is_about_source(line)
    close(file)
    if (!found) {
        show(file)
        fail("the compiler failed for " kernel ", which is no answer to a question")
    }
    return 0
}

function check_compiler() {
    if (!compiles(0)) {
        show(folder "/0.err")
        fail("nothing compiles for " kernel ", not even #include <linux/module.h>")
    }
    if (compiles(1)) fail("the compiler takes everything for " kernel ", even a function that is not declared")
}

# CRC, symbol, module, kind of export and namespace; the namespace came third in Linux 5.3 to 5.7.
function read_exports(    file, line, part, count, i) {
    file = tree "/Module.symvers"
    if ((getline line < file) <= 0) fail("there is no " file " that says what " kernel " exports")
    do {
        count = split(line, part, "\t")
        for (i = 4; i <= count && part[i] !~ /^EXPORT_/; i++);
        # Such a namespace names the only modules that get the symbol (Linux 6.16).
        if (i <= count && part[count] !~ /^module:/) exported[part[2]] = part[i] ~ /_GPL/ ? "gpl" : "free"
    } while ((getline line < file) > 0)
    close(file)
}

function read_options(    file, line, equals) {
    file = tree "/.config"
    if ((getline line < file) <= 0) fail("there is no " file " with the options of " kernel)
    do {
        equals = index(line, "=")
        if (line ~ /^CONFIG_/ && equals && substr(line, equals + 1) != "n")
            set[substr(line, 8, equals - 8)] = 1
    } while ((getline line < file) > 0)
    close(file)
}

function first_of(count,    i) {
    for (i = 3; i <= count; i++) if (compiles(word[i])) return i - 2
    return 0
}

function answer(count) {
    if (word[2] == "symbol") {
        if (!exports_read++) read_exports()
        return word[3] in exported && (word[4] == "any" || exported[word[3]] == "free")
    }
    if (word[2] == "config") {
        if (!options_read++) read_options()
        return word[3] in set
    }
    if (!compiler_checked++) check_compiler()
    return word[2] == "first" ? first_of(count) : compiles(word[3])
}

BEGIN {
    folder = ARGV[1]
    kernel = ENVIRON["KERNEL"]
    tree = ENVIRON["KERNEL_TREE"]
    print "/* What " kernel " has: answers to the [probe] tables of the project. */"
    print "#ifndef PKGKMOD_COMPAT_CONFIG_H\n#define PKGKMOD_COMPAT_CONFIG_H\n"
    while ((getline line < (folder "/list")) > 0) {
        value = answer(split(line, word, " "))
        print value ? "#define " word[1] " " value : "/* #undef " word[1] " */"
    }
    print "\n#endif"
    exit 0
}
