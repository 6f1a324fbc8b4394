"""`hfkit` in processes that are forked from one that has imported what publishing needs and talks to the tests' Hub.

A fresh process pays a second of imports each time, and HF_ENDPOINT is read when huggingface_hub is imported.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_SERVER = """
import json, os, sys
import huggingface_hub, pyarrow.parquet, yaml
from huggingface_hub import HfApi, ModelCardData, get_token
import hfkit.cli, hfkit.verbs.check, hfkit.verbs.publish, hfkit.verbs.run

def child(request):
    os.chdir(request["cwd"])
    for name, value in request["env"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    for number, name in ((1, request["out"]), (2, request["err"])):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
    code = 70
    try:
        code = hfkit.cli.main(request["arguments"])
    except SystemExit as exit:
        code = exit.code
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

print("ready", flush=True)
for line in sys.stdin:
    request = json.loads(line)
    pid = os.fork()
    if pid == 0:
        child(request)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Warm:
    """Runs one command at a time."""

    def __init__(self, environment: Mapping[str, str], said: Path) -> None:
        self._out, self._err = said / "out", said / "err"
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready", "the libraries do not import"

    def __call__(
        self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str | None]
    ) -> subprocess.CompletedProcess[str]:
        request = {
            "arguments": list(arguments),
            "cwd": str(cwd),
            "env": dict(env),
            "out": str(self._out),
            "err": str(self._err),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        code = int(self._answer())
        return subprocess.CompletedProcess(
            list(arguments), code, self._out.read_text(encoding="utf-8"), self._err.read_text(encoding="utf-8")
        )

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        self._process.communicate()
