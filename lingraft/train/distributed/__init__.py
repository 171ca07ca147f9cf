"""One run spread over several processes: ``torchrun -m lingraft run recipe.yaml`` (or ``accelerate launch -m …``).

group: what processes tell one another · launch: rank 0 leads, the others follow · strategy: DDP, DeepSpeed, FSDP2 as
the recipe says, and what really runs · sharded: FSDP2 by torch's own fully_shard · whole: parameters in one piece ·
even: the same number of batches for everybody · trainer: the Trainer that needs these
"""
