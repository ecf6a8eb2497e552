"""`opsin train`, in this process or as a job of the service."""
