#!/usr/bin/env bash
# ./run_all.sh            install into .venv and do the whole main job (demo data unless PBVS_DATA is set)
# ./run_all.sh test       install what the tests need and pass them (further words go to pytest)
# ./run_all.sh bench      measure speed (see tests/benchmarks)
# ./run_all.sh faults     break things on purpose (see tests/faults)
# ./run_all.sh gpu        prove the CUDA side on a GPU, in eight minutes and without a network (see tests/gpu)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${PBVS_VENV:-$here/.venv}
what=${1:-main}
[ $# -gt 0 ] && shift

say() { printf '\n== %s\n' "$*"; }

install() { # install EXTRAS: the package, editable, with the extras named
    if [ ! -x "$venv/bin/python" ]; then
        # A torch that is already there is used as it is; a new one is several GB.
        local share=""
        if python3 -c 'import torch' 2>/dev/null; then share=--system-site-packages; fi
        python3 -m venv $share "$venv"
    fi
    local lock mark="$venv/.installed$1" # made again when the dependencies change
    if [ ! -e "$mark" ] || [ "$here/setup.cfg" -nt "$mark" ]; then
        say "installing into $venv (several GB of torch the first time; some minutes)"
        "$venv/bin/python" -m pip install --quiet --upgrade "pip>=24"
        # The tested versions; a torch that is shared with the system stays whatever it is.
        "$venv/bin/python" -c 'import torch' 2>/dev/null && lock="$venv/constraints.txt" || lock="$here/constraints.txt"
        [ "$lock" = "$here/constraints.txt" ] || grep -v -E '^(torch|torchvision|triton|nvidia)' "$here/constraints.txt" >"$lock"
        PYTHONWARNINGS=ignore "$venv/bin/python" -m pip install --quiet --constraint "$lock" --editable "$here$1"
        touch "$mark"
    fi
    export PATH="$venv/bin:$PATH"
}

# Print the LPIPS trunk to use: a real one where it is here or can be fetched, else the wiring check's.
trunk() {
    if pbvs weights fetch alex >&2; then echo alex; else
        cat >&2 <<'TEXT'

  ****************************************************************************************
  *  No AlexNet weights are here and none can be fetched: training and score use RANDOM  *
  *  weights. The score's second number is NOT LPIPS; it only shows that the wiring      *
  *  works. `pbvs weights list` says which file to put where.                            *
  ****************************************************************************************

TEXT
        echo random
    fi
}

main_job() {
    cd "$here"
    local data=${PBVS_DATA:-} recipe=${PBVS_RECIPE:-demo} run=${PBVS_RUN:-${PBVS_RECIPE:-demo}} net
    if [ -z "$data" ]; then
        data=demo_data
        say "demo data (synthetic; set PBVS_DATA to use your own)"
        [ -e "$data/README.txt" ] || pbvs demo-data "$data"
    fi
    net=$(trunk)
    say "1/4 build-pairs" && pbvs build-pairs --data "$data"
    say "2/4 predict" && pbvs predict --all --data "$data" --recipe "$recipe" --run "$run" --lpips-net "$net"
    say "3/4 score" && pbvs score --split val --data "$data" --run "$run" --lpips-net "$net"
    say "4/4 package" && pbvs package --run "$run"
    say "done: submissions/$run.zip, and submissions/$run/report.html to look at"
}

case "$what" in
main) install "" && main_job ;;
test)
    install "[test]"
    cd "$here"
    say "ruff and mypy"
    ruff check . # each on a line of its own: where && joins them, only the last one's failure ends the script
    ruff format --check .
    mypy
    # One thread a process: two processes with two threads each would wait for each other.
    say "tests" && OMP_NUM_THREADS=1 python -m pytest --numprocesses "${PBVS_TEST_JOBS:-2}" "$@"
    ;;
bench) install "[test]" && cd "$here" && python -m tests.benchmarks "$@" ;;
faults) install "[test]" && cd "$here" && python -m tests.faults "$@" ;;
gpu)
    # A machine with a GPU often has its own torch and no network: what is there is used as it is.
    if ! (cd "$here" && python3 -c 'import torch, pbvs.pipeline, pbvs.evaluation.evaluate, pbvs.data.build' 2>/dev/null); then
        install ""
    fi
    cd "$here" && python3 -m tests.gpu "$@"
    ;;
*) echo "run_all.sh: there is no '$what'; say nothing, test, bench, faults or gpu" >&2 && exit 2 ;;
esac
