#!/usr/bin/env bash
# Submit everything up to the curated subsets: the catalogs, N shards, their merge, and the run that publishes. Each waits until the one before has succeeded.
#
#   deploy/slurm/submit.sh N CONFIG [OPTIONS OF sbatch FOR EACH SHARD ...]
#   deploy/slurm/submit.sh 64 my.yaml --gpus=1 --cpus-per-task=8 --mem=64G --time=04:00:00 --array=1-64%16
#
# $MOTIVE names the command (default: motive), $MOTIVE_UNTIL how far the last job goes (default: subset; see `motive run --until`). If a shard fails, the jobs behind
# it are cancelled; mend the cause and submit again: what is done is not done twice. Logs: motive-shards-I.log and motive-NAME-JOB.log in this folder.
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: $0 N CONFIG [OPTIONS OF sbatch FOR EACH SHARD ...]" >&2
  exit 2
fi
shards=$1 config=$(realpath "$2")
shift 2
script=$(dirname "$(realpath "$0")")/motive.sbatch

after() { # after JOB ARGUMENTS...: submit a job that starts when JOB has succeeded
  local job=$1
  shift
  sbatch --parsable --dependency="afterok:$job" --kill-on-invalid-dep=yes "$@"
}

catalog=$(sbatch --parsable --job-name=motive-catalog "$script" run --config "$config" --until catalog)
array=$(after "$catalog" --job-name=motive-shards --array="1-$shards" --output=%x-%a.log "$@" "$script" run --config "$config" --shard "{}/$shards")
merge=$(after "$array" --job-name=motive-merge "$script" merge --config "$config" --shards "$shards")
publish=$(after "$merge" --job-name=motive-publish "$script" run --config "$config" --until "${MOTIVE_UNTIL:-subset}")
echo "catalog $catalog, shards $array, merge $merge, publish $publish"
