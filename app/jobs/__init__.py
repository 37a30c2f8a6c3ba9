"""Work that nobody waits for: finalizing, sweeping, webhooks."""
