"Data: schema, dataset folders, the simulated marketplace, encoding, sequences and batches"
