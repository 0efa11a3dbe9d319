"""Points in; a law with intervals and a checklist out."""
