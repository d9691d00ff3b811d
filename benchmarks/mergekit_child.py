"""Times mergekit's own merges for materialize.py; runs in the environment that has mergekit.

Reads a mergekit configuration and a folder a line (JSON), answers with the merge's processor
seconds.
"""

import json
import shutil
import sys
import time

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import MergeOptions, run_merge

torch.set_num_threads(int(sys.argv[1]))
answers = sys.stdout
sys.stdout = sys.stderr
print("ready", file=answers, flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    config = MergeConfiguration.model_validate(asked["config"])
    options = MergeOptions(
        copy_tokenizer=False, lazy_unpickle=True, quiet=True, write_model_card=False
    )
    begun = time.process_time()
    run_merge(config, asked["folder"], options)
    seconds = time.process_time() - begun
    shutil.rmtree(asked["folder"])
    print(seconds, file=answers, flush=True)
