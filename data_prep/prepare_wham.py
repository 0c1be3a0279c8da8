#!/usr/bin/env python3
"""Index a WHAM! or WHAMR! folder: python data_prep/prepare_wham.py --data_folder DIR --save_folder DIR"""

from unified_sess.data.prepare import main

if __name__ == "__main__":
    main("WHAM", "WHAMR")
