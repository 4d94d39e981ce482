"""Who asks, and on which terms: from the key that a request shows to the policies that apply to it. Pure."""
