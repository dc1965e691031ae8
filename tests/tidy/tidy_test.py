"""Each rule of tidy.py sees its planted violation, and is quiet about the same tree without it."""

from __future__ import annotations

import contextlib
import io
import tempfile
import unittest
from pathlib import Path

import tidy

GOOD = {
    "kernels/README.md": "k\n",
    "kernels/runtime/README.md": "k\n",
    "kernels/runtime/cell.h": "// A cell.\n#pragma once\n#include <cstdint>\n",
    "kernels/runtime/cuda/stream.cc": '#include <cuda.h>\n#include "kernels/runtime/cell.h"\n',
    "kernels/ops/README.md": "k\n",
    "kernels/ops/ops.h": '#pragma once\n#include "kernels/runtime/cell.h"\n',
    "proto/README.md": "p\n",
    "proto/wire/README.md": "p\n",
    "proto/wire/frame.h": '#pragma once\n#include "kernels/runtime/cell.h"\n',
    "proto/stubs/README.md": "p\n",
    "proto/stubs/daemon_stub.cc": '#include "muond/v1/daemon.pb.h"\n',
    "client/README.md": "c\n",
    "client/core/README.md": "c\n",
    "client/core/client.h": '#pragma once\n#include "proto/wire/frame.h"\n',
    "server/README.md": "s\n",
    "server/gather/README.md": "s\n",
    "server/gather/gatherer.h": '#pragma once\n#include "proto/wire/frame.h"\n',
    "server/state/README.md": "s\n",
    "server/state/slots.h": "#pragma once\n",
    "server/daemon/README.md": "s\n",
    "server/daemon/step_loop.cc": '#include "server/gather/gatherer.h"\n',
    "server/daemon/daemon_service.cc": "#include <grpcpp/grpcpp.h>\n",
}

PLANTED = [
    # rule, file, text, what the message must name
    (tidy.layers, "kernels/runtime/buffer.h", '#pragma once\n#include "kernels/ops/ops.h"\n', "kernels/ops/ops.h"),
    (tidy.layers, "kernels/ops/gemm.h", '#pragma once\n#include "proto/wire/frame.h"\n', "proto/wire/frame.h"),
    (tidy.layers, "proto/wire/page.h", '#pragma once\n#include "client/core/client.h"\n', "client/core/client.h"),
    (tidy.layers, "server/gather/verdict.h", '#pragma once\n#include "server/state/slots.h"\n', "server/state/slots.h"),
    (tidy.layers, "client/core/route.h", '#pragma once\n#include "server/state/slots.h"\n', "server/state/slots.h"),
    (tidy.layers, "server/daemon/loop.h", '#pragma once\n#include "client/core/client.h"\n', "client/core/client.h"),
    (tidy.layers, "server/attic/old.cc", "int x;\n", "LAYERS"),
    (tidy.foreign_headers, "kernels/ops/gemm.h", "#pragma once\n#include <cublasLt.h>\n", "cublasLt.h"),
    (tidy.foreign_headers, "server/state/slots.cc", "#include <cuda_runtime.h>\n", "cuda_runtime.h"),
    (tidy.foreign_headers, "proto/wire/x.cc", "#include <ucp/api/ucp.h>\n", "ucp/api/ucp.h"),
    (tidy.foreign_headers, "proto/wire/x.cc", "#include <nccl.h>\n", "nccl.h"),
    (tidy.foreign_headers, "client/core/x.cc", "#include <torch/extension.h>\n", "torch/extension.h"),
    (tidy.foreign_headers, "server/gather/x.cc", '#include "muond/v1/types.pb.h"\n', "types.pb.h"),
    (tidy.foreign_headers, "server/daemon/door_service.h", "#pragma once\n#include <grpcpp/server.h>\n", "server.h"),
    (tidy.sizes, "client/core/long.py", "x = 1\n" * 601, "601 lines"),
    (tidy.readmes, "server/scatter/copy.cc", "int x;\n", "server/scatter"),
    (tidy.leftovers, "client/core/x.cc", "// TODO: later\n", "TODO"),
    (tidy.leftovers, "client/core/x.md", "see FIXME there\n", "FIXME"),
    (tidy.leftovers, "client/core/x.py", 'PATH = "/home/me/data"\n', "a path of one machine"),
    (tidy.guards, "client/core/x.h", "// What.\n#ifndef X\n#define X\n#endif\n", "#ifndef X"),
]


@contextlib.contextmanager
def planted(files: dict[str, str]):
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        yield Path(folder)


class TidyTest(unittest.TestCase):
    def test_a_good_tree_has_no_violation(self) -> None:
        with planted(GOOD) as root:
            found = [v for rule in tidy.RULES for v in rule(tidy.Tree(root))]
        self.assertEqual(found, [])

    def test_each_planted_violation_is_found_once(self) -> None:
        for rule, name, text, message in PLANTED:
            with self.subTest(rule=rule.__name__, file=name), planted(GOOD | {name: text}) as root:
                found = list(rule(tidy.Tree(root)))
                self.assertEqual(len(found), 1, found)
                self.assertIn(message, found[0])

    def test_every_rule_has_a_planted_violation(self) -> None:
        self.assertEqual({rule for rule, *_ in PLANTED}, set(tidy.RULES))

    def test_the_exit_code_tells(self) -> None:
        quiet = contextlib.redirect_stdout(io.StringIO())
        with planted(GOOD) as root, quiet:
            self.assertEqual(tidy.main([str(root)]), 0)
        with planted(GOOD | {"server/state/x.h": "int x;\n"}) as root, quiet:
            self.assertEqual(tidy.main([str(root)]), 1)

    def test_an_empty_tree_is_no_success(self) -> None:
        with planted({}) as root, contextlib.redirect_stdout(io.StringIO()):
            self.assertEqual(tidy.main([str(root)]), 1)


if __name__ == "__main__":
    unittest.main()
