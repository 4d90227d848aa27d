"Attention, masks, time gaps, blocks and jagged batches"
