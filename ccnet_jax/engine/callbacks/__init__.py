"""What happens beside the steps of any run, a class and a file each."""
