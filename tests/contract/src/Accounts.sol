// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @notice Forwards calls, so that it can act as payer or payee.
abstract contract Actor {
    function act(address target, uint256 value, bytes calldata data) external returns (bytes memory result) {
        bool success;
        (success, result) = target.call{value: value}(data);
        if (success) return result;
        assembly ("memory-safe") {
            revert(add(result, 32), mload(result))
        }
    }

    function fund() external payable {}
}

/// @notice An ERC-1271 account with one owner key.
contract OwnedAccount is Actor {
    address public owner;

    constructor(address owner_) {
        owner = owner_;
    }

    function rotate(address owner_) external {
        owner = owner_;
    }

    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4) {
        return ECDSA.recover(digest, signature) == owner ? this.isValidSignature.selector : bytes4(0xffffffff);
    }

    receive() external payable {}
}

/// @notice Gives the same answer to every call.
contract FixedAnswerAccount {
    bytes private _answer;

    constructor(bytes memory answer) {
        _answer = answer;
    }

    fallback(bytes calldata) external returns (bytes memory) {
        return _answer;
    }
}

/// @notice Says yes to every signature, and keeps nothing in storage, so an account can delegate to it.
contract AgreeingAccount {
    function isValidSignature(bytes32, bytes calldata) external pure returns (bytes4) {
        return this.isValidSignature.selector;
    }
}

/// @notice Tries to write state when asked about a signature, then says yes.
contract WritingAccount {
    uint256 public writes;

    function isValidSignature(bytes32, bytes calldata) external returns (bytes4) {
        ++writes;
        return this.isValidSignature.selector;
    }
}

/// @notice Refuses native coin.
contract RefusingAccount is Actor {
    error Refused();

    receive() external payable {
        revert Refused();
    }
}

/// @notice Calls back once when native coin arrives, and keeps what came of it.
contract ReentrantAccount is Actor {
    address public target;
    bytes public data;
    bool public called;
    bool public succeeded;
    bytes public result;

    function arm(address target_, bytes calldata data_) external {
        (target, data) = (target_, data_);
    }

    receive() external payable {
        if (target == address(0)) return;
        address callee = target;
        target = address(0);
        called = true;
        (succeeded, result) = callee.call(data);
    }
}
