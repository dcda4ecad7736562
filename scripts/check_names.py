"""Names that nothing defines. Shapes in annotations look like names, so the linter's own rule for it is off.

What stands inside a plain string, as the letters of a shape do, is left out; f-strings are looked into.
"""

import io
import json
import subprocess
import sys
import tokenize
from pathlib import Path

COMMAND = ("ruff", "check", "--select", "F821", "--output-format", "json", "--no-cache", ".")


def main() -> int:
    found = json.loads(subprocess.run([sys.executable, "-m", *COMMAND], capture_output=True, check=False).stdout)
    wrong = [entry for entry in found if entry["filename"].endswith(".py") and not _is_in_string(entry)]
    for entry in wrong:
        print(f"{Path(entry['filename']).relative_to(Path.cwd())}:{entry['location']['row']}: {entry['message']}")
    return min(len(wrong), 1)


def _is_in_string(entry: dict[str, object]) -> bool:
    place = entry["location"]
    assert isinstance(place, dict)
    at = (place["row"], place["column"] - 1)
    text = Path(str(entry["filename"])).read_text(encoding="utf-8")
    strings = (t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.STRING)
    return any(t.start <= at < t.end and "f" not in t.string.split(t.string[-1])[0].lower() for t in strings)


if __name__ == "__main__":
    sys.exit(main())
