"""What training costs: measured steps, kept in the storage, and what a study comes to by them."""
