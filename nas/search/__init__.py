"""The search: one Optuna study, asked, evaluated and told."""
