#!/bin/sh
# sh ask.sh FOLDER/GROUP COMPILER FLAGS...
#
# Compiles a group of questions with the same headers as one file, since reading the headers takes most of the time.
# What the compiler has something against is a no, and is taken out; what is left must then compile without an error to
# be a yes. Where it is not clear what an error is about, each question of the group is compiled alone.
set -u
group=$1
shift
folder=${group%/*}
left=$(sed -n 's/^#line 1 "question \([0-9]*\)"$/\1/p' "$group.group")

# say ANSWER NUMBER...
say() {
    answer=$1
    shift
    for number; do echo "$answer" >"$folder/$number.answer"; done
}

# Prints the numbers of the questions with errors; fails if one is about something else, or may be about what stands
# before it: after a mistake in the syntax the compiler has to guess where the next function begins.
refused() {
    awk '/^question [0-9]+:[0-9]+:([0-9]+:)? error: / && !/ error: expected / {
            sub(/:.*/, "", $2)
            if (!seen[$2]++) printf "%s ", $2
            next
        }
        /[Ee]rror: / { unclear = 1 }
        END { exit unclear }' "$group.err"
}

# Prints the group with no other questions than $left.
remaining() {
    awk -v left=" $(echo $left) " '/^#line 1 "question / { number = $4; sub(/"$/, "", number); number = " " number " " }
        number == "" || index(left, number)' "$group.group"
}

while [ -n "$left" ]; do
    remaining >"$group.left"
    if "$@" -c -o "$group.o" -x c "$group.left" 2>"$group.err"; then
        say yes $left
        exit 0
    fi
    no=$(refused) && [ -n "$no" ] || break
    say no $no
    kept=
    for number in $left; do
        case " $no" in
        *" $number "*) grep "^question $number:" "$group.err" >"$folder/$number.err" ;;
        *) kept="$kept $number" ;;
        esac
    done
    left=$kept
done

for number in $left; do
    if "$@" -c -o "$group.o" -x c "$folder/$number.part" 2>"$folder/$number.err"; then
        say yes "$number"
    else
        say no "$number"
    fi
done
