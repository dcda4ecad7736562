"""--print-completion SHELL: a script that completes commands, options, settings, recipes and values on the Tab key.

The script is written from the parsers and holds all words, so that no key press starts Python. zsh runs that for bash.
"""

import argparse
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from vitrail import recipes
from vitrail.cli.settings import values_of_settings

SHELLS = ("bash", "zsh", "fish")
NAMED_DATA = ("digits", "cifar10", "cifar100", "fashion-mnist")
_VALUES = {
    "--data": [*NAMED_DATA],
    "--data.spec": [*NAMED_DATA],
    "--device": ["auto", "cpu", "cuda", "mps"],
    "--compute.device": ["auto", "cpu", "cuda", "mps"],
    "--recipe": [name for name in recipes.names() if recipes.starts_from_weights(name)],
}
"""Values that a parser does not know; where there are none, the shell completes names of files."""
_NAMES = {
    "train": recipes.from_scratch(),
    "pretrain": recipes.without_labels(),
    "bench": recipes.names(),
    "data": ["info", "check", "download", "pack", "index", "simulate", *NAMED_DATA],
}
"""What stands by itself after a verb, beside names of files."""
_TOP = ("--help", "--version", "--json", "--print-completion")
_ZSH = (
    "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }",
    "autoload -Uz bashcompinit && bashcompinit",
)


@dataclass(frozen=True)
class _Words:
    """What may follow a verb.

    Args:
        about: the verb, in a line.
        names: what stands by itself.
        options: with the values of each; None: it takes none.
        help: of options.
        short: settings by their last part, where that is the name of one alone.
    """

    about: str
    names: list[str]
    options: dict[str, list[str] | None]
    help: dict[str, str]
    short: dict[str, str]


def script(shell: str, parsers: Mapping[str, argparse.ArgumentParser], take_settings: Collection[str]) -> list[str]:
    """The lines of a script for one of SHELLS."""
    verbs = {name: _words_of(name, parser, settings=name in take_settings) for name, parser in parsers.items()}
    if shell == "fish":
        return _fish(verbs)
    return [*(_ZSH if shell == "zsh" else ()), *_bash(verbs)]


def _words_of(verb: str, parser: argparse.ArgumentParser, *, settings: bool) -> _Words:
    about = (parser.description or "").splitlines()[0]
    words = _Words(about, _NAMES.get(verb, []), options={}, help={}, short={})
    for action in parser._actions:
        for option in action.option_strings:
            if option.startswith("--") and action.help != argparse.SUPPRESS:
                listed = re.fullmatch(r"{(.+)}", str(action.metavar))
                values = action.choices or (listed[1].split(",") if listed else _VALUES.get(option, []))
                words.options[option] = None if action.nargs == 0 else list(map(str, values))
                words.help[option] = action.help or ""
    found = values_of_settings() if settings else {}
    shortened = {option: re.sub(r"^--(no-)?[a-z]+\.", r"--\1", option) for option in found}
    count = Counter(shortened.values())
    for option, values in found.items():
        words.options[option] = values if values is None else values or _VALUES.get(option, [])
        if count[shortened[option]] == 1 and shortened[option] not in words.options:
            words.short[shortened[option]] = option
    return words


def _bash(verbs: Mapping[str, _Words]) -> list[str]:
    known, values = list[str](), list[str]()
    for verb, words in verbs.items():
        every = {**words.options, **{short: words.options[option] for short, option in words.short.items()}}
        switches = [option for option, those in every.items() if those is None]
        lists = {"options": words.options, "switches": switches, "short": words.short, "words": words.names}
        known.append(f"    {verb}) {' '.join(f'{name}={_list(those)}' for name, those in lists.items())} ;;")
        values += [f"    '{verb} {option}') words={_list(those)} ;;" for option, those in every.items() if those]
    return [
        "_vitrail() {",
        f"  local options={_list(_TOP)} switches={_list(_TOP)} short= words={_list([*verbs, 'help'])}",
        "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb= i",
        "  [[ $cur == = ]] && cur=",
        "  [[ $prev == = ]] && prev=${COMP_WORDS[COMP_CWORD-2]}",
        "  for ((i = COMP_CWORD - 1; i > 0; i--)); do",
        "    case ${COMP_WORDS[i]} in -*) ;; *) verb=${COMP_WORDS[i]} ;; esac",
        "  done",
        "  case $verb in",
        *known,
        f"    help) options= words={_list(verbs)} ;;",
        "  esac",
        '  [[ $prev == --* && " $switches " != *" $prev "* ]] && words=',
        '  case "$verb $prev" in',
        f"    ' --print-completion') words={_list(SHELLS)} ;;",
        *values,
        "  esac",
        "  [[ $cur == -* ]] && words=$options",
        '  [[ $cur == --?* ]] && words="$options $short"',
        '  COMPREPLY=($(compgen -W "$words" -- "$cur"))',
        "}",
        "complete -o default -F _vitrail vitrail",
    ]


def _list(words: Iterable[str]) -> str:
    return f"'{' '.join(words)}'"


def _fish(verbs: Mapping[str, _Words]) -> list[str]:
    begin = "complete -c vitrail"
    lines = [f"{begin} -n __fish_use_subcommand -l print-completion -x -a {_list(SHELLS)}"]
    for verb, words in verbs.items():
        lines.append(f"{begin} -n __fish_use_subcommand -f -a {verb} -d {_quoted(words.about)}")
        after = f"{begin} -n '__fish_seen_subcommand_from {verb}'"
        if words.names:
            lines.append(f"{after} -a {_list(words.names)}")
        for option, values in words.options.items():
            taken = "" if values is None else f" -x -a {_list(values)}" if values else " -r"
            about = f" -d {_quoted(words.help[option])}" if words.help.get(option) else ""
            lines.append(f"{after} -l {option.removeprefix('--')}{taken}{about}")
    return lines


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
