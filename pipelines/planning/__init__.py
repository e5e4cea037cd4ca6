"""What a build will take, told from its spec and a sample of its input before anything is fetched."""
