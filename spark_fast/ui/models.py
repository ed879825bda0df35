"""The bodies of the API's requests and answers. Requests are checked against them; answers are described by them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

__all__ = [
    "Advance",
    "Asked",
    "Call",
    "Cleaned",
    "Code",
    "Detail",
    "Error",
    "Histories",
    "Journal",
    "Nothing",
    "Pause",
    "Refused",
    "Reload",
    "Reset",
    "Runs",
    "SetValue",
    "SetValues",
    "Versions",
]

_STEPS_MAX = 10**15  # JavaScript counts so far without error, and no run gets there
_SECONDS_MAX = 1e9

# --- requests ---


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


def _whole(value: object) -> object:
    """JSON has one kind of number: 5.0 is as whole as 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Steps = Annotated[int, Field(ge=1, le=_STEPS_MAX), BeforeValidator(_whole)]
Number = Annotated[int, Field(ge=1, lt=10**9), BeforeValidator(_whole)]
Place = Annotated[int, Field(ge=0, lt=10**9), BeforeValidator(_whole)]
Seconds = Annotated[float, Field(ge=0.001, le=_SECONDS_MAX, allow_inf_nan=False)]


class Nothing(_Body):
    """An empty body."""


class Pause(_Body):
    """When to park, and for how long."""

    at_step: Annotated[Steps | None, Field(description="The step to park at; else the next.")] = None
    resume_after: Annotated[Seconds | None, Field(description="Seconds after which it goes on by itself.")] = None


class Advance(_Body):
    """How far to go."""

    steps: Steps


class Reload(_Body):
    """Where the new code comes from. Default: the files on disk. `code` and `to` exclude each other."""

    code: Annotated[str | None, Field(description="The complete new source of the entry file.")] = None
    to: Annotated[Number | None, Field(description="The version to run, older or newer than the current one.")] = None
    restart: Annotated[bool, Field(description="Whether to start the training over, with nothing kept.")] = False


class Reset(_Body):
    """How long the old process may take to end."""

    grace: Annotated[float, Field(ge=0, le=_SECONDS_MAX, allow_inf_nan=False, description="Seconds.")] = 30.0


class SetValue(_Body):
    """A new value."""

    value: JsonValue


class SetValues(_Body):
    """New values by name: all are set at one step, or none."""

    values: dict[str, JsonValue] = Field(min_length=1, max_length=256)


class Call(_Body):
    """The arguments of a call."""

    args: list[JsonValue] = []
    kwargs: dict[str, JsonValue] = {}
    ranks: Annotated[
        Place | Literal["all"] | None,
        Field(description="The rank that calls it, or all of them, at the same step. Default: what the function says."),
    ] = None
    timeout: Annotated[
        float,
        Field(ge=0, le=30, allow_inf_nan=False, description="Seconds to wait for the result, at most."),
    ] = 0.0


# --- answers ---


class Error(BaseModel):
    """An error, in words for people."""

    error: str


class Progress(BaseModel):
    """How far the track() loops have come."""

    loops: list[tuple[int, int | None]]
    fraction: float | None
    seconds_left: float | None


class Rank(BaseModel):
    """One worker of a run."""

    rank: int
    status: str
    step: int
    pid: int
    host: str
    since: Annotated[
        float,
        Field(
            description="When it came to this status; of one that is lost, when that was first seen; of one that is "
            "unheard, when its host was last heard. 0 if unknown."
        ),
    ]
    behind: Annotated[int, Field(description="Steps that it is behind the live rank that is furthest.")]
    overdue: Annotated[
        float,
        Field(description="Whole seconds since the oldest request that only this rank has not come to; or 0."),
    ]
    trouble: Annotated[
        Literal["", "lost", "failed", "unheard", "overdue", "behind"],
        Field(description="What is wrong with it; empty if nothing is."),
    ]


class Trouble(BaseModel):
    """Ranks that have the same trouble: how many, and the first of them."""

    trouble: Literal["lost", "failed", "unheard", "overdue", "behind"]
    count: int
    first: list[int]


class Present(BaseModel):
    """How many ranks the run has or had, how many live, on how many hosts, and which of them are in trouble."""

    ranks: int
    live: int
    hosts: int
    troubles: list[Trouble]


class RunError(BaseModel):
    """The exception that ended a run, or after which it is paused. Where several ranks have one: the first."""

    type: str
    message: Annotated[str, Field(description="Its last line, as Python prints it.")]
    traceback: str
    step: int
    rank: int
    time: float
    can_resume: Annotated[
        bool, Field(description="Whether it is paused and its code can run again without starting the training over.")
    ]


class Summary(BaseModel):
    """A run. In the stream's list of runs it lacks `ranks`."""

    id: str
    status: str
    error: RunError | None
    step: int
    steps_per_second: float | None
    progress: Progress | None
    started: float
    ended: float | None
    command: list[str]
    folder: str
    resumes: float | None
    stop_by: Annotated[
        float | None, Field(description="When the sender of the stop kills the processes; null if it did not say.")
    ]
    swallowed_stop: Annotated[
        int | None,
        Field(description="The step at which the loop caught SparkStopError and went on; else null."),
    ]
    world_size: Annotated[int, Field(description="How many ranks the job has, on all hosts.")]
    local_world_size: Annotated[int, Field(description="How many ranks of the job this host has, once all have come.")]
    ranks: Annotated[list[Rank], Field(description="The ranks that are there, or were.")]
    present: Present
    memory: Annotated[int | None, Field(description="Bytes that rank 0 has in memory.")]
    since_checkpoint: Annotated[
        float | None, Field(description="Seconds for which the step is the same, as far as the server has seen it.")
    ]


class Runs(BaseModel):
    """All runs; or an error, if they can't be listed."""

    runs: list[Summary]
    error: str | None


class Fate(BaseModel):
    """The outcome of a request."""

    state: Literal["asked", "applied", "superseded", "refused", "failed", "void", "lost"]
    step: int | None
    by: str | None
    reason: str
    final: bool
    warnings: list[str]


class Request(BaseModel):
    """A request to a run.

    Of a request that sets values or calls a function: `name` is the name of those, if this server sent the request.
    `result` is what the function returned, `output` what it printed. `cut` tells that both are too long for a list;
    the request by itself has them whole. `ranks` is the rank that calls the function; where all do, `result` is an
    object by rank.
    `can_start_over`: the reload was refused because the training would start over; a reload with `restart` does that.
    """

    id: str
    kind: str
    sender: str
    asked: float
    version: int | None
    name: str | None = None
    ranks: int | Literal["all"] | None = None
    result: Any = None
    output: str | None = None
    cut: bool = False
    can_start_over: bool
    fate: Fate


class Asked(BaseModel):
    """The request that was sent."""

    request: Request


class Refused(BaseModel):
    """Why a request was refused; and the request, if the run got it."""

    error: str
    request: Request | None = None


class Value(BaseModel):
    """An exposed value, and its limits."""

    name: str
    value: Any
    type: Literal["number", "integer", "boolean", "text", "json"]
    step: int
    time: float
    readonly: bool
    min: float | None
    max: float | None
    step_size: float | None
    choices: list[Any] | None
    unit: str
    doc: str


class Parameter(BaseModel):
    """One parameter of a function. `default` is null where there is no default, or where JSON can't express it."""

    name: str
    kind: Literal["positional", "keyword", "positional_or_keyword", "var_positional", "var_keyword"]
    required: bool
    default: Any
    annotation: str


class Function(BaseModel):
    """An exposed function."""

    name: str
    doc: str
    signature: str
    parameters: list[Parameter]
    ranks: Annotated[
        Literal[0, "all"], Field(description="The rank that calls it, or all of them, unless the call says another.")
    ]


class Detail(Summary):
    """A run in full."""

    values: list[Value]
    functions: list[Function]
    requests: list[Request]
    version: int | None
    reloadable: bool
    board_error: Annotated[str | None, Field(description="Why the values and functions can't be read.")]


class History(BaseModel):
    """The history of a value over the whole run. Each point stands for the same number of assignments."""

    steps: list[int]
    times: list[float]
    last: list[float | None]
    low: list[float | None]
    high: list[float | None]
    mean: list[float | None]


class Histories(BaseModel):
    """Histories by the name of their values."""

    history: dict[str, History]


class Journal(BaseModel):
    """The lines of a journal, its header first. `torn`: the last line was incomplete, and is left out. `loss`: the part
    of its beginning that is missing, in words for people."""

    path: str | None
    lines: list[dict[str, Any]]
    torn: bool
    loss: str | None


class Version(BaseModel):
    """A version of the code. `changed`: the files that differ from the version before."""

    number: int
    made: float
    sender: str
    note: str
    changed: list[str]


class Versions(BaseModel):
    """All versions, and the number of the running one."""

    current: int | None
    versions: list[Version]


class File(BaseModel):
    """A source file."""

    path: str
    shown: Annotated[str, Field(description="The path, relative to the project.")]
    entry: Annotated[bool, Field(description="Whether it is the file that `code` of a reload replaces.")]
    source: str


class Code(Version):
    """A version with its sources, and a unified diff from the version before."""

    files: list[File]
    diff: str


class Cleaned(BaseModel):
    """The ids of the runs that were removed."""

    removed: list[str]
