#!/bin/sh
# Trains the model at 8 kHz from which the one that ships is grown: the separator alone, then the same behind an enhancer with
# gradient modulation. Goes on after a stop; quick only on processors that know bf16 (AMX).
#
#     sh recipes/Mini/train_start.sh MINI SPEECH NOISE [OUTPUT [OPTIONS OF train.py]]
#
# MINI: what make_mini.py made; SPEECH, NOISE: the training parts, such as LibriSpeech/train-clean-100 and wham_noise/tr.
# OUTPUT/start is the model. OPTIONS for both trainings, such as --number_of_epochs 1 --mixtures_per_epoch 40, to try it out.
set -eu
repository=$(cd "$(dirname "$0")/../.." && pwd)
mini=$1 speech=$2 noise=$3 output=${4:-results/Mini/start}
shift 3
[ $# -eq 0 ] || shift
export OMP_NUM_THREADS=1 # two processes share two cores

train() { # NAME OF THE RESULTS FOLDER, OPTIONS
    name=$1
    shift
    torchrun --standalone --nproc_per_node 2 "$repository/train.py" "$repository/recipes/Mini/unified.yaml" \
        --data_folder "$mini/Libri2Mix" --speech_folder "$speech" --noise_folder "$noise" \
        --batch_size 2 --precision bf16 --output_folder "$output/$name" "$@"
}
train separation --enhancer none --lr 0.002 --final_lr 0.00028 --number_of_epochs 14 --mixtures_per_epoch 2000 "$@"
unified-sess export "$output/separation" "$output/separator" --half --plain
train unified --pretrained "$output/separator" \
    --lr 0.001 --number_of_epochs 9 --mixtures_per_epoch 1600 "$@"
unified-sess export "$output/unified" "$output/start" --half --plain
