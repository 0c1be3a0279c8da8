"""What every part uses: audio files, whole files, errors in one line, processes, memory."""
