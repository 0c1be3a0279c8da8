"""Who is heard in separated tracks: voices are recognised, and every turn is put on the track of its speaker."""
