#!/bin/sh
# Trains the model that ships: a model at 8 kHz learns to separate (recipes/Mini/train_start.sh) and grows to 16 kHz, which
# then learns rooms, turns, telephones and silence. Goes on after a stop.
#
#     sh recipes/Recordings/train_default.sh MINI SCENES SPEECH NOISE [OUTPUT [OPTIONS OF train.py]]
#
# MINI: what recipes/Mini/make_mini.py made; SCENES: what make_scenes.py made; SPEECH, NOISE: folders, or lists of them such as
# "[A, B]". OPTIONS for the trainings at 16 kHz, such as --speakers "[null, B.csv]" --speech_shares "[0.5, 0.5]".
# START=FOLDER takes a trained model at 8 kHz instead of training one.
set -eu
repository=$(cd "$(dirname "$0")/../.." && pwd)
here=$repository/recipes/Recordings
mini=$1 scenes=$2 speech=$3 noise=$4 output=${5:-results/Recordings/default}
shift 4
[ $# -eq 0 ] || shift
export OMP_NUM_THREADS=1 # two processes share two cores

start=${START:-$output/8k/start}
[ -n "${START:-}" ] || sh "$repository/recipes/Mini/train_start.sh" "$mini" "$mini/speech/train-clean-100" "$noise" "$output/8k"
[ -f "$output/grown/model.safetensors" ] || python "$here/grow.py" "$start" "$output/grown" \
    --data-folder "$mini/Libri2Mix"
torchrun --standalone --nproc_per_node 2 "$repository/train.py" "$here/unified.yaml" \
    --pretrained "$output/grown" --data_folder "$scenes" --speech_folder "$speech" --noise_folder "$noise" --batch_size 1 \
    --mixtures_per_epoch 200 --number_of_epochs 10 --falling_epochs 4 \
    --output_folder "$output/unified" "$@"
unified-sess export "$output/unified" "$output/trained" --half --plain
python "$here/average_models.py" "$output/average" "$output/grown=0.8" "$output/trained=0.2"

# Once more by Muon.
torchrun --standalone --nproc_per_node 2 "$repository/train.py" "$here/unified.yaml" --pretrained "$output/average" \
    --data_folder "$scenes" --speech_folder "$speech" --noise_folder "$noise" --batch_size 4 --training_signal_len 3 \
    --mixtures_per_epoch 800 --number_of_epochs 10 --falling_epochs 10 --muon True --ema_decay 0.99 --warmup_steps 20 \
    --scenes "{active: [0.01, 0.12, 0.87], rooms: 0.5, rt60: [0.15, 0.8], room_count: 600, turns: 0.25, level_difference: 8, noise_snr: [-3, 20], devices: 0.15, clipping: 0.03, codec: 0.02}" \
    --output_folder "$output/longer" "$@"
unified-sess export "$output/longer" "$output/longer-trained" --half --plain
python "$here/average_models.py" "$output/second" "$output/average=0.5" "$output/longer-trained=0.5"

# And for long, in larger steps, which most of the hours go into. On processors that know bf16 (AMX) --precision bf16 is faster.
long() { # START SHARE_OF_ROOMS OPTIONS
    start=$1 rooms=$2
    shift 2
    torchrun --standalone --nproc_per_node 2 "$repository/train.py" "$here/unified.yaml" --pretrained "$start" \
        --data_folder "$scenes" --speech_folder "$speech" --noise_folder "$noise" --batch_size 6 --training_signal_len 4 \
        --mixtures_per_epoch 1200 --muon True --ema_decay 0.99 --warmup_steps 30 --enhancement_weight 0.2 \
        --scenes "{active: [0, 0.12, 0.88], rooms: $rooms, rt60: [0.15, 0.8], room_count: 800, turns: 0.2, level_difference: 7, noise_snr: [-3, 18], devices: 0.1, clipping: 0.01, codec: 0}" \
        "$@"
}
long "$output/second" 0.4 --number_of_epochs 27 --falling_epochs 20 --lr 0.0015 --output_folder "$output/long" "$@"
unified-sess export "$output/long" "$output/long-trained" --half --plain
long "$output/long-trained" 0.38 --number_of_epochs 30 --falling_epochs 26 --lr 0.0012 --sum_weight 0.2 \
    --output_folder "$output/last" "$@"
unified-sess export "$output/last" "$output/model" --half --plain
python "$here/choose_silence.py" "$output/model" --data-folder "$scenes" --enhanced-from sources
unified-sess evaluate --model "$output/model" --data-folder "$mini/Libri2Mix" --output-dir "$output/measured" --metrics si_snr,sdr,stoi
python "$here/ship.py" "$output/model" "$output/measured"
