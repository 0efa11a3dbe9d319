"""The networks of the study and their losses. The building blocks are timm's; masking and losses are ours."""
