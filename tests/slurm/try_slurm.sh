#!/bin/bash
# Try train.py with a real Slurm on one machine: a sweep of four jobs by submitit_slurm, srun of two tasks, and a sweep
# that is cancelled and continued. As root, on Debian: apt-get install slurm-wlm; bash tests/slurm/try_slurm.sh [PYTHON]
#
# It starts munged, slurmctld and slurmd for this machine in a temporary folder. At the end it cancels all jobs and stops
# these processes.
set -euo pipefail

python=$(realpath -s "${1:-.venv/bin/python}")
train="$python $(pwd)/train.py"
work=$(mktemp -d) && chmod 755 "$work" && cd "$work"
digits="dataset=digits logger=csv hidden_size=16 test.K=2"
export OMP_NUM_THREADS=1 SLURM_CONF=$work/slurm.conf

stop() {
    trap - EXIT
    scancel --user=root 2>/dev/null || true  # slurmd leaves running jobs behind when it ends
    timeout 60 bash -c 'while squeue -h 2>/dev/null | grep -q .; do sleep 1; done' || true
    kill $(jobs -p) 2>/dev/null || true  # the daemons, and a sweep that waits for its jobs
    wait
}
trap stop EXIT
trap 'exit 130' INT TERM

mkdir -m 700 munge && dd if=/dev/urandom of=munge/key bs=1k count=1 status=none && chmod 400 munge/key
munged --foreground --force --key-file="$work/munge/key" --socket="$work/munge.socket" --pid-file="$work/munged.pid" \
    --log-file="$work/munge/log" --seed-file="$work/munge/seed" 2>munged.err &
cat >slurm.conf <<CONF
ClusterName=try
SlurmctldHost=$(hostname)(127.0.0.1)
AuthInfo=socket=$work/munge.socket
SlurmUser=root
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MpiDefault=none
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
NodeName=$(hostname) NodeAddr=127.0.0.1 CPUs=$(nproc --all) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
mkdir state spool
slurmctld -D 2>slurmctld.err &
slurmd -D 2>slurmd.err &
timeout 30 bash -c 'until sinfo -h -o %t | grep -q idle; do sleep 1; done' || { cat slurmctld.log slurmd.log; exit 1; }
sinfo

statuses() {
    find "$1" -mindepth 1 -maxdepth 1 -type d -name '*=*' | sort | while read -r run; do
        echo "$(basename "$run") $([ -e "$run/summary.json" ] && echo finished || echo unfinished)"
    done
}
slurm="hydra/launcher=submitit_slurm hydra.launcher.partition=main hydra.launcher.timeout_min=20 hydra.launcher.cpus_per_task=1
 hydra.launcher.mem_gb=null"

echo "== a sweep of four jobs"
$train -m $digits trainer.max_epochs=2 seed=0,1,2,3 $slurm hydra.sweep.dir=sweep 2>submitit.log || tail -n 30 submitit.log
statuses sweep

echo "== srun of two tasks: one run for each"
srun --ntasks=2 bash -c "$train $digits trainer.max_epochs=2 seed=\$SLURM_PROCID hydra.run.dir=task\$SLURM_PROCID"
ls task0/summary.json task1/summary.json
cmp task0/summary.json sweep/*seed=0*/summary.json && cmp task1/summary.json sweep/*seed=1*/summary.json && echo "as in the sweep"

echo "== srun of two tasks with trainer=ddp: refused"
srun --ntasks=2 $train $digits trainer=ddp && exit 1

echo "== srun of one task with trainer=ddp: one model"
srun --ntasks=1 --cpus-per-task=2 $train $digits trainer=ddp trainer.max_epochs=2 hydra.run.dir=ddp
ls ddp/summary.json

echo "== scancel in the middle of a sweep, and sweep= again"
$train -m $digits trainer.max_epochs=40 seed=0,1,2,3 $slurm hydra.sweep.dir=cancelled 2>submitit.log &
sweep=$!
timeout 200 bash -c 'until ls cancelled/*/checkpoints/last.ckpt >/dev/null 2>&1; do sleep 1; done'
scancel --user=root
timeout 60 bash -c 'while squeue -h | grep -q .; do sleep 1; done'
kill -INT $sweep  # without Slurm's accounting, submitit cannot know that its jobs were cancelled
wait $sweep || echo "exit code $?"
statuses cancelled
$train sweep=cancelled 2>submitit.log
statuses cancelled
echo "== done"
