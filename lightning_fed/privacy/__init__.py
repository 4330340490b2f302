"""Differential privacy: mechanisms that are exact on integers, their accountants, the budget ledger and an audit."""
