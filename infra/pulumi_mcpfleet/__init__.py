"""What a stack deploys: the fleet's vocabulary, the names it gets, the components that build it."""
