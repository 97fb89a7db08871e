#!/usr/bin/env bash
# Installs the project into .venv beside this file on first use, then runs it:
#
#   ./launch.sh VERB ...           the console script show-attend-tell; --help lists its verbs
#   ./launch.sh test [ARGUMENT ..] the test suite; arguments go to pytest, paths from this folder
#     --quick                      only tests that together take under 90 seconds
#     --all                        also the tests that are marked slow
#   ./launch.sh bench ...          the benchmarks; --help lists their parts
#
# requirements.lock pins what is installed, by version and hash. For an accelerator, set
# SHOW_ATTEND_TELL_EXTRA=cuda (or tpu) once. This adds the jax plugins that match the locked jax,
# without checking their hashes; later starts keep them. Set it to an empty value to remove them.
# SHOW_ATTEND_TELL_EXTRA=hub adds the client of the Hugging Face hub, for models and for weights of
# vgg19, resnet50 and resnet101; bench adds PyTorch for the benchmarks. Join several with commas:
# cuda,hub. Each list replaces the one before.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
venv=$root/.venv
stamp=$venv/launch.stamp
log=$venv/install.log

say() { printf 'launch.sh: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# The lock has wheels for Python 3.11 to 3.14.
usable() {
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null
}

find_python() {
  local name
  for name in python3 python3.13 python3.12 python3.11 python3.14; do
    if usable "$name"; then echo "$name" && return; fi
  done
}

make_venv() {
  local python
  python=$(find_python)
  if have uv; then  # fetches a Python if there is none
    uv venv --quiet --allow-existing --python "${python:-3.13}" "$venv"
  elif [ -z "$python" ]; then
    echo "no Python 3.11 to 3.14 found: install one (or uv) and start again"
    return 1
  elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "$python has no venv module: install it (Debian: apt install python3-venv) or uv"
    return 1
  else
    "$python" -m venv "$venv"
  fi
}

pip_install() {
  if have uv; then
    uv pip install --python "$venv/bin/python" "$@"
  else
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-input "$@"
  fi
}

# Installs the build tool first, then builds without isolation: an isolated build would fetch the
# newest release of the build tool, and one locked package comes only as source.
install_all() {
  cd "$root" &&
    sed -n '/^setuptools==/,/[^\\]$/p' requirements.lock >"$venv/build.lock" &&
    pip_install --require-hashes -r "$venv/build.lock" &&
    pip_install --require-hashes --no-build-isolation -r requirements.lock &&
    pip_install --no-build-isolation --no-deps -e . &&
    if [ -n "$extra" ]; then pip_install --no-build-isolation -e ".[$extra]"; fi
}

# Says every 20 seconds how far the installation is. Its sleep holds neither the lock nor the
# output, so nobody waits for it.
report_progress() {
  local started=$SECONDS
  while sleep 20 >/dev/null 2>&1; do
    say "still installing, $((SECONDS - started)) s: $(tail -n 1 "$log" | tr -s ' ' | cut -c 1-70)"
  done
}

# Whether an extra that is installed is not wanted any more.
dropped_extra() {
  local name
  for name in $(tr ',' ' ' <"$venv/extra"); do
    case ,$extra, in *,"$name",*) ;; *) return 0 ;; esac
  done
  return 1
}

up_to_date() { [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && [ -x "$venv/bin/python" ]; }

set_up() {
  exec 9<"$root"  # one installation at a time
  if have flock && ! flock -n 9; then
    say "another start is installing; waiting for it"
    flock 9
  fi
  if ! up_to_date; then
    local what="installing into $venv (260 MB to download, 1.3 GB on disk, 1 to 3 minutes)"
    local state=unfinished
    case $(cat "$stamp" 2>/dev/null) in
      '') ;;                 # made by hand: bring it up to date
      *" $root")
        if dropped_extra; then
          rm -rf "$venv"     # nothing uninstalls what only an extra needs
        else
          state="updating $root"  # what works is kept if the update fails
          what="bringing $venv up to date: the lock or the extras have changed"
        fi ;;
      *) rm -rf "$venv" ;;   # interrupted, or moved (its scripts name the old folder)
    esac
    mkdir -p "$venv"
    echo "$extra" >"$venv/extra"
    echo "$state" >"$stamp"
    say "$what"
    if ! usable "$venv/bin/python"; then
      make_venv >"$log" 2>&1 || die "$(cat "$log")"
    fi
    report_progress 9<&- &
    reporter=$!
    disown  # or bash reports its end
    trap 'kill "$reporter" 2>/dev/null || true' EXIT
    if ! (install_all) >"$log" 2>&1; then
      tail -n 15 "$log" >&2
      die "the installation failed (network? disk full?); full log: $log. Start again to retry"
    fi
    kill "$reporter" 2>/dev/null || true
    trap - EXIT
    echo "$want" >"$stamp"
    say "installed"
  fi
  exec 9<&-
}

extra=${SHOW_ATTEND_TELL_EXTRA-$(cat "$venv/extra" 2>/dev/null || true)}
want="$(cat "$root/requirements.lock" "$root/pyproject.toml" | cksum) $extra $root"
up_to_date || set_up

if [ "${1-}" = test ]; then
  shift
  cd "$root"
  exec "$venv/bin/python" -m pytest "$@"
fi
if [ "${1-}" = bench ]; then
  shift
  exec "$venv/bin/python" "$root/benchmarks/main.py" "$@"
fi
exec "$venv/bin/show-attend-tell" "$@"
