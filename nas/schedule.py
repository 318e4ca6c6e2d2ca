"""A run with ``--time``: its plan is made once, kept, settled before the finalists, and told at the end."""

import time
from collections.abc import Sequence
from dataclasses import replace

from latency.device import Device
from latency.files import read_sealed, write_sealed
from nas.config import SearchConfig
from nas.costs import measure_costs, predicted_table_s, time_steps
from nas.folder import RunFolder
from nas.measuring import Console
from nas.plan import RESERVE, Plan, make_plan
from nas.search.target import Target
from nas.training.oracle import Task
from search_spaces.architecture import Architecture
from search_spaces.errors import InputError
from search_spaces.space import SearchSpace

SCHEMA_VERSION = 1


class Schedule:
    """The plan of a run and what became of it.

    ``config`` is that of the command. Time counts as the stages of ``run.json`` do, over all sessions: what passes
    between two of them is nobody's.
    """

    def __init__(self, config: SearchConfig, folder: RunFolder, console: Console) -> None:
        self._config, self._folder, self._console = config, folder, console
        self._time_s = config.time or 0.0

    def require_time(self, space: SearchSpace, devices: Sequence[Device]) -> None:
        """Say about how long the tables that are missing will take.

        Raises:
            InputError: they leave no time.
        """
        missing = [device for device in devices if not self._folder.table(device).exists()]
        if self._config.table is not None or not missing:
            return
        seconds = predicted_table_s(space, len(missing))
        if seconds > self._time_s:
            raise InputError(
                f"--time: measuring the blocks alone takes about {seconds:.0f} s, which is more than the "
                f"{self._time_s:.0f} s given; give more, or a table of `nas table build` with --table"
            )
        self._console.say(f"measuring the blocks will take about {seconds:.0f} of {self._time_s:.0f} s")

    def begin(self, task: Task, targets: Sequence[Target], devices: Sequence[Device]) -> SearchConfig:
        """Return the settings with what the plan decides, which the first session makes."""
        start = time.monotonic()
        if not self._folder.plan.exists():
            with self._console.progress("measuring what the parts cost"):
                costs = measure_costs(self._config, task, targets, devices)
            stages = self._folder.record["stages"]
            spent = {**stages, "plan": stages.get("plan", 0.0) + time.monotonic() - start}
            self._keep(make_plan(self._time_s, spent, costs, self._config.given))
        plan = self.plan
        rows = [[stage.name, stage.what, f"{stage.planned_s:.0f}", stage.why] for stage in plan.stages]
        total = sum(stage.planned_s for stage in plan.stages)
        self._console.table(f"plan for {plan.time_s:.0f} s", ["stage", "what", "seconds", "why"], rows)
        self._console.say(f"{total:.0f} s are planned, {RESERVE:.0%} is kept for what takes longer; {plan.why}")
        return self._settings()

    def settle(self, task: Task, finalists: Sequence[Architecture]) -> SearchConfig:
        """Return the settings with the finalists' epochs, which the time that is left decides once, for all alike."""
        start = time.monotonic()
        if not self.plan.settled:
            plan, macs = self.plan, sorted(task.space.macs(a) for a in finalists)
            ordered = sorted(finalists, key=task.space.macs)
            spread = [ordered[0], ordered[len(ordered) // 2], ordered[-1]]
            # The machine of now: how fast it is changes by tens of percent from one minute to another.
            step_s, step_s_per_mac = time_steps(task, spread, self._config.final)
            costs = replace(plan.costs, step_s=step_s, step_s_per_mac=step_s_per_mac)
            spent_s = sum(self._folder.record["stages"].values()) + time.monotonic() - start
            self._keep(plan.settle(spent_s, macs, costs, self._config.given))
        self._console.say(self.plan.settled)
        return self._settings()

    @property
    def plan(self) -> Plan:
        """The plan in the folder.

        Raises:
            InputError: it is damaged.
        """
        return Plan.from_json(read_sealed(self._folder.plan, SCHEMA_VERSION, "plan"))

    def _keep(self, plan: Plan) -> None:
        write_sealed(self._folder.plan, SCHEMA_VERSION, plan.as_json())

    def _settings(self) -> SearchConfig:
        decided = self.plan.settings | {name: v for name, v in self._config.given.items() if name in self.plan.settings}
        self._folder.record["planned"] = decided
        return self._config.model_copy(update=decided)

    def tell(self) -> None:
        """Show what each stage has taken beside what was planned, and keep it for the report."""
        plan, used_s = self.plan, self._folder.record["stages"]
        planned_s = {stage.name: stage.planned_s for stage in plan.stages}
        rows = [[name, f"{planned_s.get(name, 0):.0f}", f"{seconds:.0f}"] for name, seconds in used_s.items()]
        totals = ["all", f"{sum(planned_s.values()):.0f}", f"{sum(used_s.values()):.0f}"]
        self._console.table(f"time, of {plan.time_s:.0f} s", ["stage", "planned s", "used s"], [*rows, totals])
        over_s = sum(used_s.values()) - plan.time_s
        if over_s > 0:
            slower = max(used_s, key=lambda name: used_s[name] - planned_s.get(name, 0))
            self._console.say(
                f"{over_s:.0f} s more than given, most of it in {slower}, which took longer than it was timed to"
            )
        lines = {"given": f"{plan.time_s:.0f} s", "plan": plan.why, "final training": plan.settled}
        lines |= {f"{name}, planned and used": f"{planned}, {used} s" for name, planned, used in [*rows, totals]}
        self._folder.record["report"]["time"] = lines
