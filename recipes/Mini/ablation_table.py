SETS = ("Libri2Mix", "Rooms")


def write_ablation(folder):
    return ""
