"""How much each key, policy and model may use: counted, refused with the time to come back, shared by gateways."""
