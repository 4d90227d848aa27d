"""HeterRec: retrieval with heterogeneous tokens, hierarchical causal transformers and a multi-step listwise loss"""
