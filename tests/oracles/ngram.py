"""An n-gram model with dictionaries: every n-gram a tuple, probabilities by recursion; slow and plainly right."""

from collections import Counter


class Ngrams:
    """Counts texts (lists of ids): n-grams that end at a place > 0, because the first token of a text is given."""

    def __init__(self, order, vocab_size, texts):
        self.order, self.vocab_size = order, vocab_size
        self.counts = Counter()
        self.at_start = Counter()  # those with nothing before them
        for text in texts:
            for end in range(2, len(text) + 1):
                for m in range(1, min(order, end) + 1):
                    self.counts[tuple(text[end - m : end])] += 1
                    if m == end:
                        self.at_start[tuple(text[:end])] += 1

    def followers(self, context):
        return {
            gram[-1]: n for gram, n in self.counts.items() if len(gram) == len(context) + 1 and gram[:-1] == context
        }

    def predecessors(self, gram):
        """How many different tokens stand before an n-gram; each beginning of a text is one more."""
        return (
            len({longer[0] for longer in self.counts if longer[1:] == gram and len(longer) > 1}) + self.at_start[gram]
        )

    def context(self, history):
        """The last order - 1 tokens of a history."""
        return tuple(history[max(0, len(history) - self.order + 1) :])

    def add_k(self, token, context, k):
        """(c + k) / (total + k V) after the longest end of the context that anything has followed."""
        seen = self.followers(context)
        if not seen:
            return self.add_k(token, context[1:], k) if context else 1 / self.vocab_size
        return (seen.get(token, 0) + k) / (sum(seen.values()) + k * self.vocab_size)

    def kneser_ney(self, token, context, discount):
        shorter = self.kneser_ney(token, context[1:], discount) if context else 1 / self.vocab_size
        seen = self.followers(context)
        if len(context) + 1 < self.order:
            seen = {w: self.predecessors((*context, w)) for w in seen}
        if not seen:
            return shorter
        total = sum(seen.values())
        return max(seen.get(token, 0) - discount, 0) / total + discount * len(seen) / total * shorter

    def stupid_backoff(self, token, context, backoff):
        """A score (Brants et al. 2007), with the uniform distribution below the unigrams."""
        seen = self.followers(context)
        if token in seen:
            return seen[token] / sum(seen.values())
        return backoff * (self.stupid_backoff(token, context[1:], backoff) if context else 1 / self.vocab_size)

    def probabilities(self, history, smoothing, amount):
        """Those of all tokens after a history; scores are divided by their sum."""
        rule = {"add-k": self.add_k, "kneser-ney": self.kneser_ney, "stupid-backoff": self.stupid_backoff}[smoothing]
        scores = [rule(token, self.context(history), amount) for token in range(self.vocab_size)]
        total = sum(scores) if smoothing == "stupid-backoff" else 1
        return [score / total for score in scores]
