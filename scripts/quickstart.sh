#!/usr/bin/env bash
# From a bare Debian 12 or 13 or Ubuntu 24.04 to a small language model that writes, on two CPU cores:
# packages, build, real text, tokenizer, training with a stop and a resume, curve, text.
#
#   scripts/quickstart.sh
#
# Everything that it makes lies in .work/quickstart (text, tokenizer, shards) and runs/quickstart
# (metrics, checkpoints, curve). What is there is reused: run again, it goes on where it was. To train
# anew, remove runs/quickstart.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

readonly WORK=.work/quickstart RUN=runs/quickstart CONFIG=configs/quickstart.yaml
readonly BINARY=build/release/bin/gsa RANKS=2 STOPPED=75
readonly VOCABULARY=2048 # model.vocabulary in configs/quickstart.yaml
# Paragraphs that the tokenizer is trained on: more makes no better pieces, only more waiting.
readonly TOKENIZER_PARAGRAPHS=40000
readonly PROMPT="The function returns"

# Shows a command, then runs it.
shown() {
  printf '    $ %s\n' "$(quoted "$@")"
  "$@"
}

newest_step() {
  sed -n 's/^{"step": *\([0-9]*\).*}$/\1/p' "$RUN/metrics.jsonl" 2>/dev/null | tail -n 1 | grep . || echo 0
}

install_packages() {
  headline "1/7 packages: what the build needs, from the package manager"
  scripts/install.sh
}

build_program() {
  headline "2/7 build: the program gsa, in build/release (the first time: minutes)"
  scripts/build.sh release gsa
  say "program: $BINARY"
}

collect_text() {
  headline "3/7 text: English prose from documentation packages, in SlimPajama's layout"
  if [[ -f $WORK/tokenizer.txt ]]; then
    say "reusing $WORK/slimpajama"
    return
  fi
  # A fresh container has no package lists yet.
  apt-cache show python3-doc >/dev/null 2>&1 || as_root apt-get update -q
  scripts/collect_text.py "$WORK"
  say "text: $WORK/slimpajama/{train,validation}/chunk1/*.jsonl.zst"
}

make_shards() {
  headline "4/7 tokens: a SentencePiece model of $VOCABULARY pieces, and the text as shards of tokens"
  local split
  if [[ ! -f $WORK/tokenizer.model ]]; then
    say "training the tokenizer (log: $WORK/spm_train.log)"
    # Settings of Mistral's tokenizer, but for the size; the seed makes the same pieces every time.
    spm_train --input="$WORK/tokenizer.txt" --model_prefix="$WORK/new_tokenizer" --model_type=bpe \
      --vocab_size="$VOCABULARY" --byte_fallback=true --unk_id=0 --bos_id=1 --eos_id=2 --pad_id=-1 \
      --normalization_rule_name=identity --remove_extra_whitespaces=false --split_digits=true \
      --character_coverage=0.9999 --input_sentence_size="$TOKENIZER_PARAGRAPHS" \
      --shuffle_input_sentence=true --random_seed=1 >"$WORK/spm_train.log" 2>&1 ||
      die "training the tokenizer failed: see $WORK/spm_train.log"
    mv "$WORK/new_tokenizer.vocab" "$WORK/tokenizer.vocab"
    mv "$WORK/new_tokenizer.model" "$WORK/tokenizer.model"
  fi
  for split in train validation; do
    if [[ -f $WORK/shards/$split/index.json ]]; then
      say "reusing $WORK/shards/$split"
    else
      shown "$BINARY" tokenize "$WORK/slimpajama/$split" --output "$WORK/shards/$split" \
        --tokenizer "$WORK/tokenizer.model"
    fi
  done
  say "tokenizer: $WORK/tokenizer.model; shards: $WORK/shards/{train,validation}"
}

# Sends SIGUSR1 to mpirun, which hands it to the ranks, once the run has come half-way.
stop_half_way() { # PID STEP
  while kill -0 "$1" 2>/dev/null; do
    if (($(newest_step) >= $2)); then
      say "step $(newest_step): stopping the run with SIGUSR1, to resume it"
      kill -USR1 "$1" 2>/dev/null || true
      return
    fi
    sleep 0.5
  done
}

train() {
  headline "5/7 training: $RANKS ranks on this machine's cores; stopped half-way and resumed"
  local steps code=0 command pid
  mpi_environment_one_host
  "$BINARY" plan "$CONFIG" --ranks "$RANKS" --json "$WORK/plan.json" >"$WORK/plan.txt"
  steps=$(sed -n 's/.*"steps":\([0-9]*\).*/\1/p' "$WORK/plan.json")

  if [[ -d $RUN ]] && ! cmp -s "$CONFIG" "$WORK/trained.yaml"; then
    # A run of another configuration is not to be resumed, nor thrown away.
    local aside
    aside=$RUN-$(date +%Y%m%d-%H%M%S)
    mv "$RUN" "$aside"
    say "the configuration has changed: the earlier run is now $aside"
  fi
  cp "$CONFIG" "$WORK/trained.yaml"
  if (($(newest_step) >= steps)); then
    say "reusing $RUN: all $steps steps are done"
    return
  fi

  # -q: the program says itself why it ends.
  command=(mpirun -q -n "$RANKS" --oversubscribe --bind-to none "$BINARY" train "$CONFIG" --resume auto)
  if (($(newest_step) < steps / 2)); then
    printf '    $ %s\n' "$(quoted "${command[@]}")"
    "${command[@]}" &
    pid=$!
    stop_half_way "$pid" $((steps / 2)) &
    wait "$pid" || code=$?
    wait
    if [[ $code != "$STOPPED" ]]; then
      [[ $code != 0 ]] || code=1
      say "expected exit code $STOPPED (stopped, with a checkpoint), got $code"
      exit "$code"
    fi
    say "stopped with exit code $code: a checkpoint is written, the same command goes on from it"
  fi
  shown "${command[@]}"
  say "metrics: $RUN/metrics.jsonl; checkpoints: $RUN/checkpoints"
}

show_results() {
  headline "6/7 curve: loss over tokens"
  local entropy
  entropy=$("$BINARY" inspect "$WORK/shards/validation" |
    sed -n 's/.*unigram entropy \([0-9.]*\).*/\1/p')
  scripts/plot.py "$RUN" --entropy "$entropy" --output "$RUN/loss.png" >/dev/null
  say "curve: $RUN/loss.png"
  /usr/bin/python3 - "$RUN/metrics.jsonl" "$entropy" <<'PYTHON'
import json, sys
steps = [json.loads(line) for line in open(sys.argv[1])]
last = [step for step in steps if "validation" in step][-1]
print(f"    held-out text: loss {last['validation']['loss']:.3f} nats a token after "
      f"{last['tokens_seen'] / 1e6:.2f} million tokens; knowing only how frequent each token is: "
      f"{float(sys.argv[2]):.3f}")
for name, loss in last["validation"].get("sources", {}).items():
    print(f"        {name:24s} {loss:.3f}")
PYTHON
}

write_text() {
  headline "7/7 text: what the model writes"
  shown "$BINARY" generate "$RUN" --prompt "$PROMPT" --tokens 200 --temperature 0.8 --top-p 0.95 --seed 1
}

install_packages
build_program
mkdir -p "$WORK"
collect_text
make_shards
train
show_results
write_text
headline "done in $((SECONDS / 60)) min $((SECONDS % 60)) s. README.md goes on from here."
