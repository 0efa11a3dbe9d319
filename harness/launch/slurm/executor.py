"""Submit an array through submitit, and find the id that SLURM gave it, whatever sbatch answers.

sbatch runs once. If its answer has no id, or it fails or is too slow, SLURM may have taken the array all the same; the
array's unique name shows it (`job_states.find`). Calls are stored under their index in the array before sbatch runs,
and a job links its own when it starts, so that an array works even if nobody reads sbatch's answer.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import DelayedSubmission

from harness.launch.slurm.commands import LIMIT, LimitError, NoAnswerError, SlurmError, run_once
from harness.launch.slurm.job_states import find

SBATCH_SECONDS = 180.0  # sbatch itself waits for a controller that is busy or restarts
LOOKS = (0.0, 5.0, 15.0)  # seconds before each look for an array that SLURM may still be taking

ANSWERS = (
    re.compile(r"submitted batch job (\d{1,12})\b", re.IGNORECASE),
    re.compile(r"^[ \t]*(\d{1,12})(?:;\S*)?[ \t\r]*$", re.MULTILINE),  # of `--parsable`
    re.compile(r"\bjob (?:id )?(\d{1,12})\b", re.IGNORECASE),
)
"""How sbatch, and sites' wrappers of it, name the id of a new job; the first form that occurs counts."""


class NamedExecutor(submitit.SlurmExecutor):
    """submitit's executor for one array (of one task: a job) with a unique name."""

    def _internal_process_submissions(self, delayed_submissions: Sequence[DelayedSubmission]) -> list[Any]:
        """Submit calls as one array; submitit's own method uses its own parser, and moves calls after sbatch.

        Raises:
            SlurmError: SLURM refused the array, or it is not known whether it took it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for index, call in enumerate(delayed_submissions):
            call.set_timeout(self.parameters["time"], self.max_num_timeout)
            call.dump(self.folder / f"{index}.pkl")
        count = len(delayed_submissions)
        self.parameters["setup"] = [_link(self.folder), *(self.parameters.get("setup") or [])]
        self.parameters |= {"map_count": count} if count > 1 else {}
        script = self.folder / "submission.sh"
        script.write_text(self._make_submission_file_text(self._submitit_command_str, ""), encoding="utf-8")
        array = sbatch(script, self.parameters["job_name"])
        jobs = [f"{array}_{index}" for index in range(count)] if count > 1 else [array]
        return [self.job_class(folder=self.folder, job_id=job, tasks=[0]) for job in jobs]

    @classmethod
    def affinity(cls) -> int:
        """Jobs need srun; a login node whose sbatch is a wrapper may lack it."""
        return 2


def _link(folder: Path) -> str:
    """A shell line that gives a job's call the name under which submitit looks for it."""
    job = '"${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"'
    return f'ln -sf "${{SLURM_ARRAY_TASK_ID:-0}}.pkl" {shlex.quote(str(folder))}/{job}_submitted.pkl'


def job_number(answer: str) -> str | None:
    """The id in sbatch's answer; None if it has none, or several."""
    for form in ANSWERS:
        numbers = set(form.findall(answer))
        if numbers:
            return numbers.pop() if len(numbers) == 1 else None
    return None


def sbatch(script: Path, name: str) -> str:
    """Submit a script once, and return SLURM's id of it.

    Raises:
        LimitError: there is no place for so many jobs now.
        SlurmError: SLURM refused it, or it is not known whether SLURM took it.
    """
    try:
        answer = run_once("sbatch", str(script), seconds=SBATCH_SECONDS)
    except SlurmError as error:
        return _taken(name, error)
    return job_number(answer) or _taken(name, NoAnswerError(f"sbatch's answer has no job id: {answer.strip()!r}"))


def _taken(name: str, why: SlurmError) -> str:
    """The id of an array that SLURM took, although sbatch does not say so.

    Raises:
        SlurmError: SLURM does not list it; the text has sbatch's words.
    """
    is_refused = not isinstance(why, NoAnswerError)
    for pause in LOOKS[:1] if is_refused else LOOKS:
        time.sleep(pause)
        try:
            array = find([name]).get(name)
        except SlurmError as error:
            raise type(error)(f"{why}\n{error}\n{_NOT_KNOWN.format(name=name)}") from why
        if array is not None:
            return array
    if is_refused:
        kind = LimitError if LIMIT.search(str(why)) else SlurmError
        raise kind(f"{why}\nSLURM has not taken the jobs {name}") from why
    raise NoAnswerError(f"{why}\nsqueue does not list these jobs\n{_NOT_KNOWN.format(name=name)}") from why


_NOT_KNOWN = (
    "whether SLURM took the jobs {name} is not known; run the same command again when SLURM answers: it looks for them "
    "by this name before it submits anything"
)
