"""Kill whatever a night runs on, at random moments, until a given number of kills is reached.

python -m tools.kills --times 50 [--seed 0]

A real Prefect server, a real worker of a process pool and the deployments of `prefect.yaml` work
through an inbox of good, bad, copied and still growing slides, night after night. Each kill is a
SIGKILL of one of `VICTIMS`; what was killed is started again, as systemd would, and the next night
is asked for where the last one ended. When all slides have come to their ends, results are
thrown away and the next round begins. After each kill, and after each round, it is checked that

- each file under its final name is the one of an uninterrupted run, byte by byte;
- nothing that was committed is written again: scores of finished shards, files of finished slides;
- no process that scores outlives the night that started it.

Exits with a traceback at the first thing that is not so, and else prints counts as Markdown.
"""

import logging
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
import yaml

from tests.helpers.made import save_tiny_bundle
from tests.helpers.nights import STAGES, Inbox, Nights, a_night, night_config
from tests.helpers.prefect_site import DEADLINE_S, Site

log = logging.getLogger(__name__)


@dataclass
class Tally:
    """What was killed, and what it cost."""

    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By victim and stage."""
    nights: Counter[str] = field(default_factory=Counter)
    """By the state in which they ended."""
    rounds: int = 0
    tiles_under_way: int = 0
    """Tiles of shards that were being scored when the process was killed: at most."""

    def markdown(self) -> str:
        stages = sorted({stage for _, stage in self.kills}, key=list(STAGES).index)
        rows = [
            ["killed", "in all", *stages],
            ["---", *["---:"] * (len(stages) + 1)],
            *(
                [
                    victim,
                    str(sum(count for (who, _), count in self.kills.items() if who == victim)),
                    *(str(self.kills[victim, stage]) for stage in stages),
                ]
                for victim in [*VICTIMS]
            ),
            [
                "in all",
                str(self.kills.total()),
                *(str(sum(self.kills[who, stage] for who in VICTIMS)) for stage in stages),
            ],
        ]
        ends = ", ".join(f"{count} {name}" for name, count in sorted(self.nights.items()))
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        return (
            f"{table}\n\n"
            f"{self.rounds} inboxes came to their ends in {self.nights.total()} nights "
            f"({ends}). All outputs equal an undisturbed night's. Committed tiles that were "
            f"scored again: 0; tiles of uncommitted shards: at most {self.tiles_under_way}."
        )


VICTIMS: dict[str, Callable[[Nights, str], bool]] = {
    "a process that scores": Nights.kill_scoring,
    "the flow run": Nights.kill_flow_run,
    "the flow run with all its processes": Nights.kill_all_of_the_run,
    "Prefect's worker": Nights.kill_worker,
    "Prefect's server": Nights.kill_server,
}
ENDS_THE_RUN = {"the flow run", "the flow run with all its processes"}


def kill_again_and_again(nights: Nights, whole: Path, times: int, rng: random.Random) -> Tally:
    """Kill what makes up the nights, and see all slides to their ends after the last kill.

    Args:
        nights: the site.
        whole: results of an undisturbed night.
        times: kills.
        rng: draws victims and moments.

    """
    tally = Tally()
    run_id = nights.ask()
    seen: dict[Path, int] = {}
    while True:
        victim = rng.choice(list(VICTIMS))
        left = times - tally.kills.total()
        if left == 0 or not _at_a_random_moment(nights, run_id, rng):
            state = nights.site.end(run_id, deadline_s=10 * DEADLINE_S)
            tally.nights[state["name"]] += 1
            seen = nights.assert_in_order(whole, seen)
            if state["type"] != "CRASHED" and not nights.gave_up():
                nights.assert_complete(whole)
                tally.rounds += 1
                if left == 0:
                    return tally
                shutil.rmtree(nights.out)
                seen = {}
            run_id = nights.ask()
            continue
        stage, under_way = nights.stage(), nights.tiles_under_way()
        if not VICTIMS[victim](nights, run_id):
            continue  # there was none at that moment
        killed = datetime.now(UTC)
        tally.kills[victim, stage] += 1
        if victim in {*ENDS_THE_RUN, "a process that scores"}:
            tally.tiles_under_way += under_way
        log.info("%d: %s, %s", tally.kills.total(), victim, stage)
        nights.mend()
        seen = nights.assert_in_order(whole, seen)
        if victim in ENDS_THE_RUN:
            tally.nights[nights.bury(run_id, killed)] += 1
            run_id = nights.ask()


def _at_a_random_moment(nights: Nights, run_id: str, rng: random.Random) -> bool:
    """Wait, mostly until work goes on and a little longer; False if the run ends before."""
    before = nights.traces()
    at_work = rng.random() < 0.25
    due = time.monotonic() + rng.uniform(0, 10)
    while not nights.ended(run_id):
        if not at_work and nights.traces() != before:
            at_work, due = True, time.monotonic() + rng.uniform(0, 4)
        if at_work and time.monotonic() >= due:
            return True
        time.sleep(0.1)
    return False


def main(
    times: Annotated[int, typer.Option(help="Kills.")] = 50,
    seed: Annotated[int | None, typer.Option(help="Draws victims and moments.")] = None,
) -> None:
    """Kill whatever a night runs on, and check what comes of it."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    log.setLevel(logging.INFO)
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    log.info("Seed %d", seed)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name)
        (folder / "prefect").mkdir()
        bundle = save_tiny_bundle(folder / "tiny")
        config = night_config()
        settings = folder / "score.yaml"
        settings.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        inbox = Inbox(folder / "inbox")
        with inbox.copying(), Site(folder / "prefect") as site:
            a_night(inbox.folder, folder / "whole", bundle, config)
            log.info("An undisturbed night is there to compare with")
            # A slide whose processes were killed often enough counts as one that kills its reader.
            nights = Nights(site, folder, bundle=bundle, config=settings, again=True)
            tally = kill_again_and_again(nights, folder / "whole", times, random.Random(seed))
    typer.echo(tally.markdown())


if __name__ == "__main__":
    typer.run(main)
