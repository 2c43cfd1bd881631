"""What is handed on. In: a run's export. Out: a bundle for a deployer, or a repository on the Hugging Face Hub."""
