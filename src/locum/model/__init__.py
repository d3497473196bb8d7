"""What an MoE checkpoint is: `MoESpec` from `config.json` and safetensors headers alone. No torch."""
