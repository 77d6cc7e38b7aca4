"""metashot: audited, compared, registered few-shot models."""
