#include "../geometry.h"
