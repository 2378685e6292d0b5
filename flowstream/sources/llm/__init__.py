"""Language models as sources: by the SDKs of their servers, or in this process."""
