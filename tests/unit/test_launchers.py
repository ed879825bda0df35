"""Where a process stands in its job, by what its launcher really sets."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from spark_fast.launchers import leads
from spark_fast.worker.lifecycle import launchers
from spark_fast.worker.lifecycle.launchers import RankInfo, find, place
from spark_fast.worker.options import Options
from tests.support.child import Child

pytestmark = pytest.mark.unit

Environment = dict[str, str]

# --- the environments, as these launchers make them ---


def here(found: RankInfo | None) -> RankInfo | None:
    """Without what tells the job on other hosts."""
    return None if found is None else replace(found, everywhere="")


def torchrun(rank: int = 1, *, hosts: int = 1, here: int = 2, run: str = "9e1f", restarts: int = 0) -> Environment:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank % here),
        "WORLD_SIZE": str(hosts * here),
        "LOCAL_WORLD_SIZE": str(here),
        "GROUP_RANK": str(rank // here),
        "GROUP_WORLD_SIZE": str(hosts),
        "ROLE_NAME": "default",
        "ROLE_RANK": str(rank),
        "ROLE_WORLD_SIZE": str(hosts * here),
        "MASTER_ADDR": "node1",
        "MASTER_PORT": "43591",
        "TORCHELASTIC_RUN_ID": run,
        "TORCHELASTIC_RESTART_COUNT": str(restarts),
        "TORCHELASTIC_MAX_RESTARTS": "3",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


DEEPSPEED = {
    "RANK": "5",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_SIZE": "4",
    "CROSS_RANK": "1",
    "CROSS_SIZE": "2",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
}
RAY_TRAIN = {
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2",
    "NODE_RANK": "0",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "38761",
    "ACCELERATE_TORCH_DEVICE": "cpu",
}
OPEN_MPI_5 = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_NODE_RANK": "1",
    "OMPI_UNIVERSE_SIZE": "2",
    "PMIX_NAMESPACE": "prterun-node1-30225@1",
    "PMIX_RANK": "1",
    "PRTE_LAUNCHED": "1",
}
MPICH = {
    "HYDI_CONTROL_FD": "7",
    "MPI_LOCALNRANKS": "2",
    "MPI_LOCALRANKID": "1",
    "PMI_FD": "11",
    "PMI_HOSTNAME": "node1",
    "PMI_RANK": "1",
    "PMI_SIZE": "2",
}
INTEL_MPI = {
    "HYDRA_BSTRAP_LAUNCHER": "ssh",
    "I_MPI_HYDRA_UUID": "2e760000-dd5f-b2c9-0761-0600bbe79c6a",
    "MPI_LOCALNRANKS": "2",
    "MPI_LOCALRANKID": "1",
    "PMI_FD": "11",
    "PMI_RANK": "1",
    "PMI_SIZE": "2",
}
SBATCH = {  # in the script itself, which is one process, of `sbatch --nodes=2 --ntasks-per-node=2`
    "SLURM_JOB_ID": "200505",
    "SLURM_JOBID": "200505",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NNODES": "2",
    "SLURM_NODEID": "0",
    "SLURM_NPROCS": "4",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "0",
    "SLURM_TASKS_PER_NODE": "2(x2)",
}
SRUN = SBATCH | {  # the last task of a step of it
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_PROCID": "3",
    "SLURM_STEP_ID": "0",
    "SLURM_STEPID": "0",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_STEP_LAUNCHER_PORT": "34567",
}

TRUE = {
    "torchrun": (torchrun(), RankInfo("torchrun", 1, 2, 1, 2, "torchrun:9e1f:0")),
    "torchrun on a second host": (torchrun(5, hosts=2, here=4), RankInfo("torchrun", 5, 8, 1, 4, "torchrun:9e1f:1")),
    "torchrun after two restarts": (torchrun(restarts=2), RankInfo("torchrun", 1, 2, 1, 2, "torchrun:9e1f:0", 2)),
    "torchrun without an id": (torchrun(run="none"), RankInfo("torchrun", 1, 2, 1, 2, "torchrun:node1:43591:0")),
    "torchrun --virtual-local-rank": (
        torchrun(7, hosts=2, here=4) | {"LOCAL_RANK": "0"},
        RankInfo("torchrun", 7, 8, 3, 4, "torchrun:9e1f:1"),
    ),
    "torchrun with fewer on the second host": (
        torchrun() | {"RANK": "4", "GROUP_RANK": "1", "GROUP_WORLD_SIZE": "2", "WORLD_SIZE": "6"} | {"LOCAL_RANK": "0"},
        RankInfo("torchrun", 4, 6, 0, 2, "torchrun:9e1f:1"),
    ),
    "torchrun in a step of srun": (SRUN | torchrun(), RankInfo("torchrun", 1, 2, 1, 2, "torchrun:9e1f:0")),
    "torchrun by mpirun": (OPEN_MPI_5 | torchrun(0), RankInfo("torchrun", 0, 2, 0, 2, "torchrun:9e1f:0")),
    "DeepSpeed": (DEEPSPEED, RankInfo("PyTorch's environment", 5, 8, 1, 4, "PyTorch's environment:10.0.0.1:29500")),
    "Ray Train": (RAY_TRAIN, RankInfo("PyTorch's environment", 1, 2, 1, 2, "PyTorch's environment:10.0.0.1:38761")),
    "Ray Train in a step of srun": (
        SRUN | RAY_TRAIN,
        RankInfo("PyTorch's environment", 1, 2, 1, 2, "PyTorch's environment:10.0.0.1:38761"),
    ),
    "a script that sets the least": (
        {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost", "MASTER_PORT": "29501"},
        RankInfo("PyTorch's environment", 1, 4, 1, 4, "PyTorch's environment:localhost:29501"),
    ),
    "a script that sets the least, in a step of srun": (
        SRUN | {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "node1", "MASTER_PORT": "29501"},
        RankInfo("PyTorch's environment", 3, 4, 1, 2, "PyTorch's environment:node1:29501"),
    ),
    "a script with ranks of its own, in a step of srun": (
        SRUN | {"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "node1", "MASTER_PORT": "29501"},
        RankInfo("PyTorch's environment", 0, 4, 0, 4, "PyTorch's environment:node1:29501"),
    ),
    "a script that names no master's port": (
        {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost"},
        RankInfo("PyTorch's environment", 1, 4, 1, 4, "PyTorch's environment:parent"),
    ),
    "Open MPI 5": (OPEN_MPI_5, RankInfo("Open MPI", 1, 2, 1, 2, "Open MPI:prterun-node1-30225@1")),
    "Open MPI 3": (
        {name: value for name, value in OPEN_MPI_5.items() if "PMIX" not in name}
        | {"OMPI_MCA_ess_base_jobid": "3486973953"},
        RankInfo("Open MPI", 1, 2, 1, 2, "Open MPI:3486973953"),
    ),
    "Open MPI whose daemons srun started": (
        SRUN | OPEN_MPI_5,
        RankInfo("Open MPI", 1, 2, 1, 2, "Open MPI:prterun-node1-30225@1"),
    ),
    "MPICH": (MPICH, RankInfo("MPICH", 1, 2, 1, 2, "MPICH:parent")),
    "MPICH whose proxies srun started": (SRUN | MPICH, RankInfo("MPICH", 1, 2, 1, 2, "MPICH:parent")),
    "Intel MPI": (INTEL_MPI, RankInfo("MPICH", 1, 2, 1, 2, "MPICH:2e760000-dd5f-b2c9-0761-0600bbe79c6a")),
    "srun": (SRUN, RankInfo("Slurm", 3, 4, 1, 2, "Slurm:200505:0:1")),
    "srun --mpi=pmi2": (SRUN | {"PMI_RANK": "3", "PMI_SIZE": "4"}, RankInfo("Slurm", 3, 4, 1, 2, "Slurm:200505:0:1")),
    "srun of a job that was requeued": (
        SRUN | {"SLURM_RESTART_COUNT": "1"},
        RankInfo("Slurm", 3, 4, 1, 2, "Slurm:200505:0:1", 1),
    ),
    "srun with fewer tasks than were allocated": (
        SRUN
        | {"SLURM_NODEID": "0", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2"},
        RankInfo("Slurm", 1, 2, 1, 2, "Slurm:200505:0:0"),
    ),
    "srun on unlike nodes": (
        SRUN
        | {
            "SLURM_NODEID": "3",
            "SLURM_PROCID": "6",
            "SLURM_LOCALID": "0",
            "SLURM_STEP_NUM_TASKS": "7",
            "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
        },
        RankInfo("Slurm", 6, 7, 0, 1, "Slurm:200505:0:3"),
    ),
}


@pytest.mark.parametrize("name", TRUE)
def test_each_launcher_says_where_a_process_stands(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    environ, expected = TRUE[name]
    assert here(find(environ, parent="parent")) == expected
    assert capsys.readouterr().err == ""


ALONE = {
    "no launcher": {},
    "the script of sbatch": SBATCH,
    "the script of sbatch, of a Slurm that counts it as a step": SBATCH
    | {"SLURM_STEP_ID": "4294967291", "SLURM_STEP_NUM_TASKS": "4"},
    "the shell of salloc, in its own step": SRUN | {"SLURM_STEP_ID": "4294967290"},
    "a step with a name for a number": SRUN | {"SLURM_STEP_ID": "batch"},
    "srun -n1 in a job of four": SRUN
    | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1"},
    "torchrun with one process": torchrun(0, here=1),
    "torchrun with one process, one of four of srun": SRUN | torchrun(0, here=1),
    "mpirun -n 1": OPEN_MPI_5 | {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
    "a rank of nothing": {"RANK": "0", "LOCAL_RANK": "0"},
    "empty variables": {"RANK": "", "WORLD_SIZE": ""},
}


@pytest.mark.parametrize("name", ALONE)
def test_a_process_that_is_alone_has_no_place_and_nothing_is_said(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert find(ALONE[name], parent="parent") is None
    assert capsys.readouterr().err == ""


DAMAGED = {
    "RANK='one'": torchrun() | {"RANK": "one"},
    "RANK='-1'": torchrun() | {"RANK": "-1"},
    "RANK='1_0'": torchrun() | {"RANK": "1_0"},
    "WORLD_SIZE='1e3'": torchrun() | {"WORLD_SIZE": "1e3"},
    "rank 2 of 2": torchrun() | {"RANK": "2"},
    "rank 1 of 1": DEEPSPEED | {"RANK": "1", "WORLD_SIZE": "1"},
    "local rank 4 of 4": DEEPSPEED | {"LOCAL_RANK": "4"},
    "local rank 1 of 16, and 8 in all": DEEPSPEED | {"LOCAL_SIZE": "16"},
    "LOCAL_SIZE='٣'": DEEPSPEED | {"LOCAL_SIZE": "٣"},
    "TORCHELASTIC_RESTART_COUNT='often'": torchrun() | {"TORCHELASTIC_RESTART_COUNT": "often"},
    "SLURM_STEP_TASKS_PER_NODE='2(x2' is not understood": SRUN | {"SLURM_STEP_TASKS_PER_NODE": "2(x2"},
    "SLURM_STEP_TASKS_PER_NODE='2(x2)' has no node 2": SRUN | {"SLURM_NODEID": "2"},
    "SLURM_NODEID='first'": SRUN | {"SLURM_NODEID": "first"},
    "SLURM_PROCID='9999999999999999999999'": SRUN | {"SLURM_PROCID": "9" * 22},
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_values_make_it_a_run_of_its_own_with_one_warning(
    what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert find(DAMAGED[what], parent="parent") is None
    said = capsys.readouterr().err
    assert said.startswith("spark_fast: warning: which rank this process is can't be told: ")
    assert what in said
    assert said.count("\n") == 1


def test_a_step_of_a_thousand_million_nodes_takes_no_time() -> None:
    environ = SRUN | {"SLURM_STEP_NUM_TASKS": "4294967290", "SLURM_STEP_TASKS_PER_NODE": "2(x999999999),3"}
    found = find(environ | {"SLURM_NODEID": "999999999", "SLURM_LOCALID": "2"})
    assert found is not None
    assert (found.local_rank, found.local_world_size) == (2, 3)


def test_two_jobs_beside_each_other_are_told_apart() -> None:
    first = [find(environ, parent="1") for environ in (torchrun(), DEEPSPEED, OPEN_MPI_5, MPICH, INTEL_MPI, SRUN)]
    other = [
        find(environ, parent="2")
        for environ in (
            torchrun(run="77aa"),
            DEEPSPEED | {"MASTER_PORT": "29501"},
            OPEN_MPI_5 | {"PMIX_NAMESPACE": "prterun-node1-30226@1"},
            MPICH,
            INTEL_MPI | {"I_MPI_HYDRA_UUID": "2f760000-dd5f-b2c9-0761-0600bbe79c6a"},
            SRUN | {"SLURM_STEP_ID": "1"},
        )
    ]
    jobs = [found.job for found in first + other if found is not None]
    assert len(set(jobs)) == 12


def test_the_ranks_of_one_job_name_it_alike() -> None:
    assert len({found.job for rank in range(4) if (found := find(torchrun(rank, here=4))) is not None}) == 1
    # A restart may take another port.
    again = find(torchrun(restarts=1) | {"MASTER_PORT": "40000"})
    first = find(torchrun())
    assert first is not None
    assert again == replace(first, generation=1)


# --- the process that started them ---

SAY_JOB = "from spark_fast.worker.lifecycle.launchers import find; print(find().job)"


def jobs_of(script: str) -> list[str]:
    """What the processes print that a shell starts, which stands for mpiexec."""
    clean = {name: value for name, value in os.environ.items() if name not in MPICH}
    done = subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, SAY_JOB], capture_output=True, text=True, timeout=30, env=clean
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


MPI = "MPI_LOCALNRANKS=2 PMI_SIZE=2"


@pytest.mark.process
def test_where_no_variable_names_the_job_the_process_that_started_the_ranks_does() -> None:
    ranks = [f'{MPI} MPI_LOCALRANKID={rank} PMI_RANK={rank} "$1" -c "$2"' for rank in (0, 1)]
    one = jobs_of("; ".join(ranks))
    two = jobs_of("; ".join(ranks))
    assert re.fullmatch(r"MPICH:\d+:\d+", one[0])
    assert one == [one[0]] * 2
    assert two == [two[0]] * 2
    assert one[0] != two[0]


@pytest.mark.process
def test_what_stands_between_the_launcher_and_a_rank_is_no_job_of_its_own() -> None:
    # Two shells, one within the other, as a wrapper script and a supervisor are.
    wrapped = """sh -c 'sh -c "\\"\\$1\\" -c \\"\\$2\\"; true" sh "$1" "$2"; true' sh "$1" "$2\""""
    found = jobs_of("; ".join(f"{MPI} MPI_LOCALRANKID={rank} PMI_RANK={rank} {wrapped}" for rank in (0, 1)))
    assert len(found) == 2
    assert found[0] == found[1]


# --- configure() ---


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in torchrun().items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def unlaunched(monkeypatch: pytest.MonkeyPatch) -> None:
    for row in launchers.LAUNCHERS:
        monkeypatch.delenv(row.rank, raising=False)


def test_the_options_tell_a_place_where_no_launcher_does(unlaunched: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert place(Options()) is None
    assert place(Options(job="mine", local_rank=0)) is None
    assert capsys.readouterr().err == ""
    found = place(Options(rank=2, world_size=4, job="mine"))
    assert here(found) == RankInfo("configure()", 2, 4, 2, 4, "mine")
    found = place(Options(rank=6, world_size=8, local_rank=2, local_world_size=4, job="mine"))
    assert here(found) == RankInfo("configure()", 6, 8, 2, 4, "mine")
    named = place(Options(rank=0, world_size=2))
    assert named is not None
    assert named.job.startswith(f"configure():{os.getppid()}:")
    assert place(Options(rank=0, world_size=1)) is None


def test_the_options_win_over_the_launcher(launched: None) -> None:
    by_launcher = RankInfo("torchrun", 1, 2, 1, 2, "torchrun:9e1f:0")
    assert here(place(Options())) == by_launcher
    assert here(place(Options(job="mine"))) == replace(by_launcher, job="mine")
    assert here(place(Options(rank=1, world_size=2))) == by_launcher
    assert here(place(Options(local_rank=0, local_world_size=1))) == replace(
        by_launcher, local_rank=0, local_world_size=1
    )
    assert here(place(Options(rank=3, world_size=8))) == RankInfo("configure()", 3, 8, 3, 8, "torchrun:9e1f:0")
    assert here(place(Options(rank=0, world_size=2))) == RankInfo("configure()", 0, 2, 0, 2, "torchrun:9e1f:0")
    assert place(Options(ranks=False)) is None
    assert place(Options(ranks=False, rank=0, world_size=2)) is None
    assert place(Options(world_size=1)) is None


def test_half_a_place_is_said_and_makes_it_a_run_of_its_own(
    unlaunched: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert place(Options(rank=1)) is None
    assert "needs both rank and world_size" in capsys.readouterr().err
    assert place(Options(rank=1, world_size=4, local_rank=3, local_world_size=2, job="mine")) is None
    assert "local rank 3 of 2" in capsys.readouterr().err


@pytest.mark.process
def test_the_environment_sets_options_of_ranks_and_signals_and_wrong_ones_are_said(tmp_path: Path) -> None:
    code = """
    from spark_fast.worker import options
    now = options.current()
    print(now.ranks, now.rank, now.world_size, now.local_rank, now.local_world_size, now.job)
    print(now.stop_signals, now.stop_deadline)
    """
    with Child(
        tmp_path,
        code,
        SPARK_FAST_RANKS="off",
        SPARK_FAST_RANK="1",
        SPARK_FAST_WORLD_SIZE="4",
        SPARK_FAST_LOCAL_RANK="0",
        SPARK_FAST_LOCAL_WORLD_SIZE="2",
        SPARK_FAST_JOB="mine",
        SPARK_FAST_STOP_SIGNALS="SIGTERM, sigusr1",
        SPARK_FAST_STOP_DEADLINE="1m30s",
    ) as child:
        assert child.ended() == 0, child.err
        assert child.out == "False 1 4 0 2 mine\n('SIGTERM', 'SIGUSR1') 90.0\n"
        assert child.err == ""
    wrong = {
        "SPARK_FAST_RANK": "first",
        "SPARK_FAST_WORLD_SIZE": "0",
        "SPARK_FAST_LOCAL_RANK": "-1",
        "SPARK_FAST_LOCAL_WORLD_SIZE": "1.5",
        "SPARK_FAST_STOP_SIGNALS": "SIGTERM,SIGKILL",
        "SPARK_FAST_STOP_DEADLINE": "soon",
    }
    with Child(tmp_path, code, **wrong) as child:
        assert child.ended() == 0, child.err
        assert child.out == "True None None None None None\n() None\n"
        assert [line.split()[2].split("=")[0] for line in child.err.splitlines()] == list(wrong)


@pytest.mark.process
def test_configure_checks_what_it_is_given_and_comes_too_late_after_the_first_checkpoint(tmp_path: Path) -> None:
    code = """
    import spark_fast as spark
    for wrong in (
        {"rank": -1}, {"rank": 1.0}, {"rank": 2, "world_size": 2}, {"world_size": 0}, {"job": ""},
        {"local_rank": 1, "local_world_size": 1}, {"stop_signals": "SIGNONE"}, {"stop_signals": ("SIGSTOP",)},
        {"stop_deadline": 0}, {"stop_deadline": float("inf")},
    ):
        try:
            spark.configure(**wrong)
        except ValueError as error:
            print(error)
    spark.configure(rank=0, world_size=2, ranks=False, stop_signals=["SIGTERM"], stop_deadline=30)
    from spark_fast.worker import options
    now = options.current()
    assert (now.rank, now.world_size, now.ranks) == (0, 2, False)
    assert (now.stop_signals, now.stop_deadline) == (("SIGTERM",), 30.0)
    spark.checkpoint()
    spark.configure(quiet=True)
    spark.configure(rank=0, world_size=2, stop_signals=("SIGTERM",))  # as before: a reload executes it once more
    for late in ({"rank": 1}, {"stop_signals": ()}, {"ranks": True}):
        try:
            spark.configure(**late)
        except RuntimeError as error:
            print(error)
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err
        lines = child.out.splitlines()
        assert len(lines) == 13
        assert lines[2] == "rank is less than world_size: 2 of 2"
        assert lines[6] == "stop_signals: 'SIGNONE' is not the name of a signal, as SIGTERM is"
        assert lines[7] == "stop_signals: no process can catch SIGSTOP"
        assert all("before the first checkpoint()" in line for line in lines[-3:])


def test_one_process_of_a_job_does_what_is_to_be_done_once() -> None:
    assert leads({})
    assert [leads(torchrun(rank)) for rank in (0, 1)] == [True, False]
    assert leads(torchrun(1) | {"SPARK_FAST_RANKS": "off"})  # each is a run of its own
    assert leads({"SPARK_FAST_RANK": "0"}) and not leads({"SPARK_FAST_RANK": "1"})
    assert not leads(torchrun(0) | {"SPARK_FAST_RANK": "3", "SPARK_FAST_WORLD_SIZE": "4"})
    assert leads(torchrun(1) | {"SPARK_FAST_WORLD_SIZE": "1"})
    assert leads(torchrun(1) | {"WORLD_SIZE": "two"})  # of which the worker warns, and is alone


def test_a_job_is_called_the_same_on_all_its_hosts() -> None:
    hosts = [
        find({"RANK": "4", "WORLD_SIZE": "8", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4", **own})
        for own in (
            {"TORCHELASTIC_RUN_ID": "9e1f", "GROUP_RANK": "0"},
            {"TORCHELASTIC_RUN_ID": "9e1f", "GROUP_RANK": "1"},
        )
    ]
    assert all(hosts)
    assert len({found.everywhere for found in hosts if found is not None}) == 1
    assert len({found.job for found in hosts if found is not None}) == 2
