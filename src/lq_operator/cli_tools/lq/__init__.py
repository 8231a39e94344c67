"""`kubectl lq`: what people do with VMs all day, over the API server alone (consoles: over the gateway)."""
