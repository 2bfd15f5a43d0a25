"""What people decide: the review of records, and the exchange with Label Studio."""
