"""The child: pulls, executes, settles and audits; runs after a fork from the template."""
