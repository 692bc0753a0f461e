"""From the archives to tensors: catalogue, pairing, manifest, dataset."""
